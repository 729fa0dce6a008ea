"""One odd value of a plugin costs that value, not the record."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.measure import Findings
from bench.plan.matrix import make_plan
from bench.plan.staleness import write_trials
from bench.records.record import (
    RECORD_NAME,
    TRIAL_NAME,
    Metric,
    PointResult,
    Record,
    read_record,
)
from bench.trial import run as trial

PLUGIN = """
from dataclasses import dataclass
import numpy as np
from bench.types import Unsupported

@dataclass
class Method:
    def build(self, spec, backbone):
        return backbone.build(spec)
"""
POINTS_OF_NUMPY = """
    def points(self):
        return [{"threshold": np.float32(0.5)}, {"threshold": np.float32(0.25)}]
    def set_point(self, model, point):
        pass
"""
COST_OF_NAN = """
    def declared_flops(self, model, observation):
        return float("nan")
"""
LONE_SURROGATE = """
    def calibrate(self, model, batches):
        raise {error}("no caf\\udce9 here")
"""
BRIEF = ["train.steps=2", "measure.num_inputs=2", "measure.batch_sizes=[1]", "gpu.threads=1"]
QUICK = [
    "measure.warmup_s=0",
    "measure.block_ms=1",
    "measure.rounds=1",
    "measure.processes=1",
    "backbone.depth=1",
]


@pytest.fixture
def record_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Record]:
    """The record on disk of a trial whose method is PLUGIN with more methods of its own."""

    def run(more: str) -> Record:
        (tmp_path / "odd_method.py").write_text(PLUGIN + more)
        monkeypatch.syspath_prepend(tmp_path)
        plan = make_plan(["method=dense", *BRIEF, *QUICK, f"results={tmp_path}"])
        (made,) = write_trials(plan.trials)
        content = json.loads((made / TRIAL_NAME).read_text())
        content["entry_points"]["method"] = "odd_method:Method"
        content["labels"]["method"] = "odd_method"
        (made / TRIAL_NAME).write_text(json.dumps(content))
        monkeypatch.delitem(sys.modules, "odd_method", raising=False)
        returned = trial.run(made)
        found = read_record(made / RECORD_NAME)
        assert found.status == returned.status
        return found

    return run


def test_operating_points_of_numpy_are_measured(record_of: Callable[[str], Record]) -> None:
    """float32 settings are written as the numbers that they are."""
    record = record_of(POINTS_OF_NUMPY)
    assert (record.status, record.reason) == ("ok", None)
    assert [point.settings for point in record.points] == [{"threshold": 0.5}, {"threshold": 0.25}]


def test_a_declared_cost_of_nan_is_one_missing_metric(
    record_of: Callable[[str], Record],
) -> None:
    """The rest is measured and kept."""
    record = record_of(COST_OF_NAN)
    assert record.status == "ok"
    declared = record.metrics["infer/declared_flops_per_sample"]
    assert declared.value is None
    assert declared.reason == "Method.declared_flops() is nan: must be at least 0, and finite"
    assert record.metrics["infer/flops_per_sample"].shown


@pytest.mark.parametrize(
    ("error", "status"), [("RuntimeError", "failed"), ("Unsupported", "skipped")]
)
def test_a_reason_in_bytes_that_are_no_text_is_escaped(
    record_of: Callable[[str], Record], error: str, status: str
) -> None:
    """A skipped row stays skipped, and both can be read again."""
    record = record_of(LONE_SURROGATE.format(error=error))
    assert record.status == status
    assert str(record.reason).endswith("no caf\\udce9 here")


def test_what_no_json_holds_is_left_out_by_name(
    record_of: Callable[[str], Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A metric, a diagnostic and a note: each is named, and everything else is in the record."""
    good: dict[str, Any] = {"infer/x": Metric(value=1.0, unit="ms")}
    broken = {"infer/y": good["infer/x"].model_copy(update={"value": math.nan})}
    point = PointResult(settings={"k": 1}, metrics={})
    point.metrics |= good | broken
    findings = Findings(
        metrics=good | broken,
        points=[point],
        diagnostics={"routing": {"entropy": math.nan, "gates": 3}, "canary_s": 0.1},
        notes=["runs caf\udce9"],
    )
    monkeypatch.setattr(trial, "_execute", lambda *arguments: findings)
    record = record_of("")
    assert record.status == "ok"
    for metrics in (record.metrics, record.points[0].metrics):
        assert metrics["infer/x"].shown == 1.0
        assert metrics["infer/y"].reason == "infer/y cannot be recorded: infer/y.value: nan"
    assert record.diagnostics == {"routing": {"entropy": None, "gates": 3}, "canary_s": 0.1}
    assert record.notes == [
        "runs caf\\udce9",
        "left out of the record: diagnostics.routing.entropy: nan",
    ]
