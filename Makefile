# Every target sets up what it needs: `make run` in a fresh clone is enough.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.DEFAULT_GOAL := help
.PHONY: help run test suite soak lint exact nightly trend nightly-summary nightly-wandb nightly-issue meters kernels energy overhead docs

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
	$(PIP) install -c constraints.txt --no-build-isolation -e '.[tasks,dev,docs]'
	@touch $@

# A stamp of its own: `make run` installs nothing that only the pages need.
$(VENV)/.docs: $(VENV)/.run
	$(PIP) install -c constraints.txt --no-build-isolation -e '.[tasks,docs]'
	@touch $@

run: $(VENV)/.run ## install and run the quickstart: the table, the figure, the report
	@$(BIN)/condbench run; ended=$$?; \
	  echo "Next: source $(VENV)/bin/activate && condbench --help"; exit $$ended

lint: $(VENV)/.dev ## ruff, types, who imports whom
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint suite ## lint, types and the deterministic suite (<= 15 min)

# TORCH=oldest or newest: not the pinned one, but an end of what pyproject.toml supports.
TORCH_oldest := torch==2.11.0
TORCH_newest := --upgrade torch
suite: $(VENV)/.dev ## the deterministic suite alone
	$(if $(TORCH),$(PIP) install $(or $(TORCH_$(TORCH)),$(error TORCH is oldest or newest)))
	$(BIN)/python -m pytest -m 'not soak' -p no:cacheprovider --durations=15

soak: $(VENV)/.dev ## real processes, browser, LaTeX (<= 30 min)
	$(BIN)/python -m pytest -m soak -p no:cacheprovider --durations=15

exact: $(VENV)/.run ## every method's counts against results/baseline (<= 5 min)
	$(BIN)/condbench compare --exact

NIGHT := results/nights/latest
GPU ?= cpu
HISTORY ?=
nightly: $(VENV)/.run ## BASELINE against CANDIDATE in turns: body, verdict, history (GPU=one)
	@rm -rf $(NIGHT)
	$(BIN)/condbench nightly "baseline=$${BASELINE:-nightly-baseline}" "candidate=$${CANDIDATE:-HEAD}" \
	  "history=$${HISTORY:-}" out=$(NIGHT) gpu=$(GPU)

trend: $(VENV)/.run ## every metric over the nights, beside the verdict
	$(BIN)/condbench trend "$${HISTORY:-$${XDG_DATA_HOME:-$$HOME/.local/share}/condbench/history}" \
	  --out $(NIGHT)/trend

SUMMARY := cat $(NIGHT)/body.md 2>/dev/null || echo "The night ended without a verdict; the log says why."
nightly-summary: ## the night's body, as Markdown
	@$(SUMMARY)

nightly-wandb: $(VENV)/.run ## send the night to W&B, where WANDB_API_KEY is set
	@if [ -z "$$WANDB_API_KEY" ]; then echo "no WANDB_API_KEY: not mirrored"; \
	  elif [ "$$WANDB_MODE" = disabled ]; then echo "WANDB_MODE=disabled: not mirrored"; \
	  else $(BIN)/condbench publish $(NIGHT) --mode "$${WANDB_MODE:-online}"; fi

nightly-issue: ## open the nightly's one issue, or comment on it (gh)
	@number=$$(gh issue list --label nightly --state open --limit 1 --json number --jq '.[0].number // empty') \
	  || exit; body() { { $(SUMMARY); } | head -c 60000; }; \
	  if [ -n "$$number" ]; then body | gh issue comment "$$number" --body-file -; \
	  else gh label create nightly --force && body | gh issue create --label nightly \
	    --title "The nightly is not green" --body-file -; fi

meters: $(VENV)/.dev ## our meters beside other tools on known cases, on this machine
	$(BIN)/python -m bench.selftest

kernels: $(VENV)/.dev ## time ratios of our layers beside other implementations
	$(BIN)/python -m tests.studies.kernels
	$(BIN)/python -m tests.studies.dense_kernels
	$(BIN)/python -m tests.studies.routing_overhead

energy: $(VENV)/.dev ## a GPU's energy counter examined: what docs/explanation/energy.md still has to say
	$(BIN)/python -m bench.selftest.energy

docs: $(VENV)/.docs ## the pages as HTML in build/docs; a warning or a broken link is an error
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs build/docs
	@echo "build/docs/index.html"

overhead: $(VENV)/.dev ## what the harness adds to a trial; 10,000 trials planned, 1,000 records read
	$(BIN)/python -m tests.studies.overhead
	$(BIN)/python -m tests.studies.large_plans
