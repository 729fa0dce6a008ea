"""One trial: build, train, calibrate, measure, write the record. `python -m bench.trial FOLDER`."""
