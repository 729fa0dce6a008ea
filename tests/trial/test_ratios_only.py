"""Trials of a map: executed FLOPs and a speed-up of untrained weights, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

from bench.plan.matrix import make_plan
from bench.records.record import TRIAL_NAME, Record
from bench.trial.run import run

TINY = (
    *("experiment=map", "map.minutes=null", "task.shape=[3,8,8]", "backbone.dim=12"),
    *("backbone.depth=2", "measure.processes=1", "measure.rounds=2", "measure.block_ms=1"),
    *("measure.warmup_s=0", "measure.num_inputs=4", "measure.batch_sizes=[1,4]"),
)


def measured(tmp_path: Path, *overrides: str) -> Record:
    """The record of the method's trial; the dense model is built on the way."""
    trial = make_plan([*TINY, f"results={tmp_path}", *overrides]).trials[-1]
    trial.folder.mkdir(parents=True)
    (trial.folder / TRIAL_NAME).write_text(json.dumps(trial.content()))
    record = run(trial.folder)
    assert record.status == "ok", record.reason
    return record


def test_a_trial_of_a_map_has_ratios_alone(tmp_path: Path) -> None:
    """FLOP ratio and speed-up per batch size; no memory, latency or energy."""
    record = measured(tmp_path, "method=moe")
    for size in (1, 4):
        assert (record.metrics[f"infer/tau_b{size}"].value or 0) > 1
        assert (record.metrics[f"infer/speedup_b{size}"].value or 0) > 0
    absent = ("peak", "latency", "energy", "_j_")
    inference = [key for key in record.metrics if key.startswith("infer/")]
    assert not [key for key in inference if any(part in key for part in absent)]
    assert "routing" not in record.diagnostics
    assert any(note.startswith("measure.routing=balanced: ") for note in record.notes)
