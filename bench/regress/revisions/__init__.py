"""Two git revisions, measured in turns on one machine: what slows one of them cannot hide.

From the outside in: compare (the whole), night (its state, device and second tries), machine_noise
(whether this machine can time at all), trials (the A/A control, one trial, one quality), trial_pair
(one trial on both sides), metrics (time, energy, canary), paired_rounds and paired_seeds (the
measurements), worker_process (one worker, as seen from here), replies (what a worker may answer),
deadline. `worker` runs in the revision's own process.
"""
