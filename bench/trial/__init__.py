"""One trial: build, train, calibrate, measure, write the record. `python -m bench.trial FOLDER`.

run           the whole trial; every outcome ends in a record
trial         trial.json, typed
prepare       from a trial to its trained, calibrated model
dense_start   the dense model that trials share, trained once
train         the only module with Lightning
batches       the order of training samples, and each rank's share of a batch
"""
