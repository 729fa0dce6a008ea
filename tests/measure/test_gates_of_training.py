"""What training cost goes through the same gates as what inference costs."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.plan.matrix import make_plan
from bench.plan.staleness import write_trials
from bench.records.record import Metric
from bench.trial import run as trial
from bench.trial.trained import Trainer

BRIEF = ("train.steps=2", "measure.num_inputs=2", "measure.batch_sizes=[1]", "backbone.depth=1")
QUICK = ("measure.processes=1", "measure.rounds=1", "measure.warmup_s=0", "measure.block_ms=1")


@pytest.mark.usefixtures("without_resident_child")
def test_a_training_that_beats_the_machine_is_implausible(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1e18 FLOPs in every one of two steps within a second is faster than any processor."""
    trained = Trainer._train

    def too_fast(*arguments: object) -> dict[str, Metric]:
        return {
            **trained(*arguments),  # type: ignore[arg-type]
            "train/flops_per_step": Metric(value=1e18, unit="flop"),
            "train/time_s": Metric(value=1.0, unit="s"),
        }

    monkeypatch.setattr(Trainer, "_train", too_fast)
    where = ("gpu.threads=1", f"results={tmp_path}")
    plan = make_plan(["method=dense", *BRIEF, *QUICK, *where])
    write_trials(plan.trials)
    found = trial.run(plan.trials[0].folder).metrics["train/time_s"]
    assert not found.valid
    assert "withheld: " in str(found.reason)
