"""Self-tests: what this machine can measure, and whether the meters are right on it.

condbench doctor   module `doctor`: machine, GPUs, services, and a short test of the meters
make meters        `python -m bench.selftest`: the meters on work with known results, beside
                   other tools; prints the tables of docs/explanation/meters.md
make energy        `python -m bench.selftest.energy`: studies of a real GPU's energy counter
"""
