"""The record's number of threads is the one that the trial computed with."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bench.plan.matrix import make_plan
from bench.plan.staleness import write_trials
from bench.trial import run as trial

BRIEF = ("train.steps=2", "measure.num_inputs=2", "measure.batch_sizes=[1]", "backbone.depth=1")
QUICK = ("measure.processes=1", "measure.rounds=1", "measure.warmup_s=0", "measure.block_ms=1")


@pytest.mark.usefixtures("without_resident_child")
@pytest.mark.parametrize("num_threads", [1, 3])
def test_the_record_names_the_threads_that_were_in_force(num_threads: int, tmp_path: Path) -> None:
    """Whatever the process had before the trial and has again after it."""
    where = (f"gpu.threads={num_threads}", f"results={tmp_path}")
    plan = make_plan(["method=dense", *BRIEF, *QUICK, *where])
    write_trials(plan.trials)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        record = trial.run(plan.trials[0].folder)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert record.environment["num_threads"] == num_threads
