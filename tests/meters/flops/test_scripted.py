"""TorchScript under a count: dispatched ops are counted, the interpreter's own are flagged."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bench.meters.flops.counter import MissingFormulaError, count

r = torch.randn


@pytest.mark.filterwarnings(
    "ignore:.torch.jit:DeprecationWarning", "ignore:.torch.jit:FutureWarning"
)
def test_scripted_code_is_counted() -> None:
    """TorchScript's interpreter dispatches its ops, also after it has optimised the graph."""
    model, x = torch.jit.script(nn.Linear(4, 5)), r(3, 4)
    assert [count(model, x, strict=True).macs for _ in range(3)] == [60, 60, 60]


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_operators_that_torchscript_runs_itself_are_flagged() -> None:
    """An optimised frozen convolution dispatches no op: 0 FLOPs, flagged with its name."""
    scripted = torch.jit.script(nn.Conv2d(4, 6, 3).eval())
    frozen = torch.jit.optimize_for_inference(torch.jit.freeze(scripted))
    images = r(1, 4, 8, 8)
    wrapped = nn.Sequential(frozen)
    with torch.no_grad():
        assert "prim::mkldnn_convolution" in count(frozen, images).ops_without_formula
        assert "prim::mkldnn_convolution" in count(lambda: wrapped(images)).ops_without_formula
        with pytest.raises(MissingFormulaError, match="before freezing"):
            count(frozen, images, strict=True)
        assert count(scripted, images, strict=True).macs == 6 * 36 * 36
