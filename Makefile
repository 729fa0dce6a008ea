# Every target sets up what it needs: `make run` in a fresh clone is enough.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.DEFAULT_GOAL := help
.PHONY: help run test soak lint meters kernels overhead

help: ## print the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-9s %s\n", $$1, $$2}'

$(VENV)/.run: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "condbench needs Python >= 3.11; choose one: make PYTHON=python3.12 ..."; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) install -c constraints.txt setuptools wheel
	$(PIP) install -c constraints.txt --no-build-isolation -e '.[tasks]'
	@touch $@

$(VENV)/.dev: $(VENV)/.run
	$(PIP) install -c constraints.txt --no-build-isolation -e '.[tasks,dev]'
	@touch $@

run: $(VENV)/.run ## install and run the quickstart: the table, the figure, the report
	@$(BIN)/condbench run
	@echo "Next: source $(VENV)/bin/activate && condbench --help"

lint: $(VENV)/.dev ## ruff, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint ## lint, types and the deterministic suite (<= 15 min)
	$(BIN)/python -m pytest -m 'not soak' -p no:cacheprovider --durations=15

soak: $(VENV)/.dev ## real processes, browser, LaTeX (<= 30 min)
	$(BIN)/python -m pytest -m soak -p no:cacheprovider --durations=15

meters: $(VENV)/.dev ## our meters beside other tools on known cases, on this machine
	$(BIN)/python -m bench.meters

kernels: $(VENV)/.dev ## time ratios of our layers beside other implementations
	$(BIN)/python -m tests.dense_kernels
	$(BIN)/python -m tests.kernels

overhead: $(VENV)/.dev ## what the harness adds to an empty trial
	$(BIN)/python -m bench.launch.overhead
