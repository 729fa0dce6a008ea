"""What the bundled tasks are made of; no file here is a task.

preloaded    data in memory: batches, order, content hash
manifest     the hash of data on disk that are too large to read for every plan
scoring      losses, accuracy and trivial baselines
decoding     greedy decoding in parallel over positions (numbers)
canvas       image transforms in integer arithmetic (digits)
letters      capital letters, the unseen class of digits
speech       formant synthesis and log-mel spectrograms (keywords)
ngram        the n-gram baseline (text)
docstrings   prose from the standard library (topics)
"""
