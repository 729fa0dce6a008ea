# Every target installs what it needs: `make run` in a fresh clone is enough.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.DEFAULT_GOAL := help
.PHONY: help install run test suite soak lint exact nightly trend nightly-summary nightly-wandb nightly-issue meters kernels energy overhead studies docs

help: ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-9s %s\n", $$1, $$2}'

# Stamps: pip runs again only after pyproject.toml or the pinned versions have changed.
$(VENV)/.run: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "condbench needs Python >= 3.11; choose one: make PYTHON=python3.12 ..."; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) install -c constraints.txt setuptools wheel
	$(PIP) install -c constraints.txt --no-build-isolation -e '.[tasks]'
	@touch $@

$(VENV)/.dev: $(VENV)/.run
	$(PIP) install -c constraints.txt --no-build-isolation -e '.[tasks,dev,docs]'
	@touch $@

# A stamp of its own: `make run` installs nothing that only the pages need.
$(VENV)/.docs: $(VENV)/.run
	$(PIP) install -c constraints.txt --no-build-isolation -e '.[tasks,docs]'
	@touch $@

install: $(VENV)/.run ## install into .venv
	@echo "Installed. Next: source $(VENV)/bin/activate && condbench --help"

run: $(VENV)/.run ## install, then run the quickstart: table, figure, report
	@$(BIN)/condbench run; ended=$$?; \
	  echo "Next: source $(VENV)/bin/activate && condbench --help"; exit $$ended

lint: $(VENV)/.dev ## ruff, mypy and the import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint suite ## lint and the deterministic test suite (<= 10 min on two cores)

# TORCH=oldest or newest: instead of the pinned version, a bound of the range in pyproject.toml.
TORCH_oldest := torch==2.11.0
TORCH_newest := --upgrade torch
# Two processes of one thread each. A process that is done takes over half of the other's tests.
# Byte code is cached whatever the environment says: tests start many interpreters.
TWO := -n 2 --dist worksteal
suite: $(VENV)/.dev ## the deterministic test suite without lint
	$(if $(TORCH),$(PIP) install $(or $(TORCH_$(TORCH)),$(error TORCH is oldest or newest)))
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m 'not soak' -p no:cacheprovider --durations=15 $(TWO)

soak: $(VENV)/.dev ## tests with real processes, a browser and LaTeX (<= 35 min)
	$(BIN)/python -m pytest -m soak -p no:cacheprovider --durations=15

exact: $(VENV)/.run ## compare every method's exact counts with results/baseline (<= 5 min)
	$(BIN)/condbench compare --exact

NIGHT := results/nights/latest
GPU ?= cpu
HISTORY ?=
nightly: $(VENV)/.run ## compare revisions BASELINE and CANDIDATE, keep the history (GPU=one)
	@rm -rf $(NIGHT)
	$(BIN)/condbench nightly "baseline=$${BASELINE:-nightly-baseline}" "candidate=$${CANDIDATE:-HEAD}" \
	  "history=$${HISTORY:-}" out=$(NIGHT) gpu=$(GPU)

trend: $(VENV)/.run ## plot every metric over past nightly runs
	$(BIN)/condbench trend "$${HISTORY:-$${XDG_DATA_HOME:-$$HOME/.local/share}/condbench/history}" \
	  --out $(NIGHT)/trend

SUMMARY := cat $(NIGHT)/body.md 2>/dev/null || echo "The nightly run ended without a verdict; see the log of the job."
nightly-summary: ## print the nightly's summary as Markdown
	@$(SUMMARY)

nightly-wandb: $(VENV)/.run ## send the nightly to W&B if WANDB_API_KEY is set
	@if [ -z "$$WANDB_API_KEY" ]; then echo "no WANDB_API_KEY: not mirrored"; \
	  elif [ "$$WANDB_MODE" = disabled ]; then echo "WANDB_MODE=disabled: not mirrored"; \
	  else $(BIN)/condbench publish $(NIGHT) --mode "$${WANDB_MODE:-online}"; fi

nightly-issue: ## open the nightly's issue, or comment on the open one (gh)
	@number=$$(gh issue list --label nightly --state open --limit 1 --json number --jq '.[0].number // empty') \
	  || exit; body() { { $(SUMMARY); } | head -c 60000; }; \
	  if [ -n "$$number" ]; then body | gh issue comment "$$number" --body-file -; \
	  else gh label create nightly --force && body | gh issue create --label nightly \
	    --title "The nightly is not green" --body-file -; fi

# SESSIONS=12: instead, whether intervals hold in later sessions; over an hour on a quiet machine.
meters: $(VENV)/.dev ## compare the meters with other tools on known cases (SESSIONS=12: coverage)
	$(BIN)/python -m bench.selftest$(if $(SESSIONS),.sessions all results/sessions --sessions $(SESSIONS))

kernels: $(VENV)/.dev ## time the layers against other implementations
	$(BIN)/python -m tests.studies.kernels
	$(BIN)/python -m tests.studies.dense_kernels
	$(BIN)/python -m tests.studies.sparse_kernels
	$(BIN)/python -m tests.studies.allocation_kernels
	$(BIN)/python -m tests.studies.vision_kernels
	$(BIN)/python -m tests.studies.routing_overhead

energy: $(VENV)/.dev ## examine the energy counter of this GPU, for docs/explanation/energy.md
	$(BIN)/python -m bench.selftest.energy

studies: $(VENV)/.dev ## count every published number, compare docs/explanation/papers.md (<= 15 min)
	$(BIN)/python -m tests.studies.papers

docs: $(VENV)/.docs ## build the documentation in build/docs; warnings and broken links are errors
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs build/docs
	@echo "build/docs/index.html"

overhead: $(VENV)/.dev ## measure the harness: per trial, planning 10,000, reading 1,000 records
	$(BIN)/python -m tests.studies.overhead
	$(BIN)/python -m tests.studies.large_plans
