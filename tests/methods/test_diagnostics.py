"""Every family's decisions are described alike, whatever it decides about."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from bench.measure.diagnostics.routing import measure_routing
from bench.measure.inputs import Inputs
from bench.records.record import Metric
from bench.types import Batch, Extras
from methods.controls.dense import Dense

DECIDE_NOTHING = {"dense", "shrunk_dense", "soft_moe", "downsample", "rigl", "layer_skip"}


class _Data:
    """The inputs as a task whose samples have no difficulty."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch

    @property
    def extras(self) -> Extras:
        return Extras(attributes=self.attributes)

    def attributes(self, split: str) -> dict[str, Any]:
        return {}

    def num_samples(self, split: str) -> int:
        return len(self.batch)

    def batches(self, split: str, batch_size: int, *, seed: int | None = None) -> list[Batch]:
        return [self.batch]


def _describe(tiny: Any, model: torch.nn.Module) -> dict[str, Any]:
    batch = tiny.batch(8)
    inputs = Inputs({1: [batch.select(row) for row in torch.arange(8)[:, None]], 8: [batch]})
    subject: Any = SimpleNamespace(model=model, task=_Data(batch))
    flops = {"infer/flops_per_sample": Metric(value=100, unit="flop")}
    return measure_routing(subject, inputs, np.arange(8), flops)


def test_one_schema_serves_every_family(built_in) -> None:
    """The fields are those of the dense model, each gate's are those of the first one.

    A share lies in 0..1, whatever does not apply is null, and all of it fits into JSON.
    """
    dense = _describe(built_in.tiny, Dense().build(built_in.tiny.spec, built_in.backbone))
    found = _describe(built_in.tiny, built_in.model)
    assert found.keys() == dense.keys()
    assert (found["num_gates"] == 0) == (built_in.name in DECIDE_NOTHING)
    for gate in found["gates"]:
        assert gate.keys() == found["gates"][0].keys()
        assert 0 <= gate["executed_share"] <= 1
        assert gate["load"] is None or abs(sum(gate["load"]) - 1) < 1e-9
    json.dumps(found, allow_nan=False)
