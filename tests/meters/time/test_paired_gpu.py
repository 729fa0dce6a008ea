"""Paired timing on a GPU: work whose ratio is known."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from bench.meters.time.paired import compare, run_control

pytestmark = pytest.mark.gpu
NUM_PRODUCTS = 40  # bfloat16, 4096 x 4096: milliseconds per pass, far above launch times
SETTINGS = {"rounds": 20, "warmup_s": 2.0, "block_ms": 100.0}


def _products(num_products: int) -> Callable[[Tensor], None]:
    """A model that multiplies its input by itself `num_products` times."""

    def run(batch: Tensor) -> None:
        for _ in range(num_products):
            batch @ batch

    return run


def _batches() -> list[Tensor]:
    return [torch.randn(4096, 4096, device="cuda", dtype=torch.bfloat16) for _ in range(2)]


def test_a_model_on_a_gpu_takes_as_long_as_itself() -> None:
    """The A/A time ratio lies within 1 %, and the reported noise floor covers it."""
    timing = run_control(_products(NUM_PRODUCTS), _batches(), **SETTINGS)
    assert timing.reason is None
    assert timing.ratio == pytest.approx(1, abs=0.01)
    assert timing.noise_floor is not None
    assert timing.noise_floor >= abs(timing.ratio - 1)


def test_five_percent_more_work_is_seen_on_a_gpu() -> None:
    """42 products against 40 take 1.05 times as long, within 1 %; the device was the slow part."""
    more = _products(NUM_PRODUCTS * 21 // 20)
    timing = compare(_products(NUM_PRODUCTS), more, _batches(), **SETTINGS)
    assert timing.ratio == pytest.approx(1.05, rel=0.01)
    assert timing.candidate_device_share == pytest.approx(1, abs=0.05)
