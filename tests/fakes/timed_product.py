"""A product that takes simulated time: x [n, K] times w [K, M], by its FLOPs and its rows.

With fewer than SHORT rows a FLOP takes 1.5 us instead of 1 us.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from bench import routing

SHORT = 8
NAME = "condbenchtimed"


@contextmanager
def timed_product(clock: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The operation, with its FLOP formula, while the block lasts."""

    def run(x: Tensor, w: Tensor) -> Tensor:
        clock.advance(flops((x, w)) * (1.5e-6 if len(x) < SHORT else 1e-6))
        return x @ w

    monkeypatch.setattr(sys.modules["bench.routing.formulas"], "_formulas", {})
    library = torch.library.Library(NAME, "DEF")
    library.define("product(Tensor x, Tensor w) -> Tensor")
    library.impl("product", run, "CPU")
    op = getattr(torch.ops, NAME).product
    routing.register_formula(op, lambda args, kwargs, output: flops(args))
    try:
        yield op
    finally:
        library._destroy()


def flops(args: tuple[Any, ...]) -> int:
    """2 x MAC of one product."""
    x, w = args[:2]
    return int(2 * x.numel() * w.shape[1])
