"""Trials that only count: parameters and FLOPs of untrained weights, nothing stored beside them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.config import MeasureConfig
from bench.plan.matrix import make_plan
from bench.records.record import RECORD_NAME, TRIAL_NAME, Record
from bench.trial.run import run

TINY = (
    *("task=shapes", "measure=static", "task.kind=tokens", "task.shape=[4]"),
    *("task.num_outputs=10", "backbone.dim=8", "backbone.depth=1", "backbone.num_heads=2"),
)
# A token: attention 8 x 8^2 + 4 x 4 x 8, feed-forward 4 x 8 x 32; head of the mean 2 x 8 x 10.
FLOPS = 4 * (512 + 128 + 1024) + 160
# Embedding and positions 10 x 8 + 4 x 8; attention 4 x (64 + 8); feed-forward 2 x 256 + 32 + 8;
# three norms of 16; head 80 + 10.
PARAMS = 112 + 288 + 552 + 48 + 90


def counted(tmp_path: Path, *overrides: str) -> Record:
    """The record of the one trial that is planned."""
    (trial,) = make_plan([*TINY, f"results={tmp_path}", *overrides]).trials
    trial.folder.mkdir(parents=True)
    (trial.folder / TRIAL_NAME).write_text(json.dumps(trial.content()))
    record = run(trial.folder)
    assert record.status == "ok", record.reason
    # No checkpoint and no raw vectors: a model of published size has gigabytes.
    names = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert names == {RECORD_NAME, TRIAL_NAME}
    return record


def test_a_static_trial_counts_parameters_and_executed_flops(tmp_path: Path) -> None:
    """By hand for one block, and no quality, time or memory."""
    metrics = counted(tmp_path).metrics
    assert metrics["model/params"].value == PARAMS
    assert metrics["infer/flops_per_sample"].value == FLOPS
    assert not [key for key in metrics if "quality" in key or "_s" in key.partition("/")[2][-2:]]


def test_every_operating_point_is_counted(tmp_path: Path) -> None:
    """Routing to more experts costs more; no dense trial is planned beside the method's."""
    record = counted(tmp_path, "method=moe", "method.num_experts=4")
    flops = [point.metrics["infer/flops_per_sample"].value for point in record.points]
    assert record.points[0].settings["top_k"] == 2
    assert len(set(flops)) == len(flops) > 1


def test_what_a_pass_leaves_behind_is_no_parameter(tmp_path: Path) -> None:
    """Mixed weights keep their last shares in an attribute; two experts double the two layers.

    A router of 8 x 2 + 2, and another 2 x 256 weights.
    """
    metrics = counted(tmp_path, "method=condconv", "method.num_experts=2").metrics
    assert metrics["model/params"].value == PARAMS + 18 + 512


def test_gates_run_a_stated_share(tmp_path: Path) -> None:
    """One block of one, open or closed for all of the inputs, at the default point alone."""
    skipping = ("method=skip_blocks", "measure.num_inputs=2")
    flops = {}
    for share in (1, 0.1):
        record = counted(tmp_path / str(share), *skipping, f"measure.force_share={share}")
        flops[share] = record.metrics["infer/flops_per_sample"].value or 0
        assert len(record.points) == 1
    assert flops[1] - flops[0.1] == FLOPS - 160  # the block; the head and the gate remain


def test_the_meta_device_counts_parameters_where_a_pass_needs_values(tmp_path: Path) -> None:
    """A router chooses by value: its model's FLOPs are missing with the reason, not 0."""
    dense = counted(tmp_path / "dense", "measure.meta=true").metrics
    assert dense["infer/flops_per_sample"].value == FLOPS
    moe = counted(tmp_path / "moe", "measure.meta=true", "method=moe").metrics
    assert moe["infer/flops_per_sample"].value is None
    assert "no pass on the meta device" in str(moe["infer/flops_per_sample"].reason)
    assert (moe["model/params"].value or 0) > PARAMS


def test_meta_without_counts_only_is_refused() -> None:
    """Without memory nothing can be timed or scored."""
    with pytest.raises(ValueError, match="without memory there is only counting"):
        MeasureConfig(meta=True)
