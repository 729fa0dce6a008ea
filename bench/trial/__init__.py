"""One trial: build, train, calibrate, measure, write the record. `python -m bench.trial FOLDER`.

run           the whole trial; every outcome ends in a record
trial         trial.json, typed
prepare       from a trial to its trained, calibrated model
trained       from an untrained model to a trained one, and what that cost
flop_budget   the steps that a budget of training FLOPs pays for
dense_start   the dense model that trials share, trained once
train         the only module with Lightning
batches       the order of training samples, and each rank's share of a batch
"""
