"""Where the time goes: a known wait in a region, on a simulated clock and on the real one."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench import routing
from bench.measure.inputs import Inputs
from bench.measure.latency import measure_time_shares
from bench.measure.subject import Metrics
from bench.measure.time_parts import measure_time_parts
from bench.meters.conditions import pinned_threads
from bench.meters.flops.counter import count
from bench.meters.time import products, regions
from bench.meters.time.paired import compare
from bench.records.record import Metric, missing
from tests.fakes.timed_product import timed_product
from tests.meters.conftest import SimulatedStopwatch

KEYS = [f"infer/pass_{name}_b8" for name in ("ideal", "routing", "products", "rest")]


class Work(nn.Module):
    """Two products of `num_rows` rows, a wait in the router, and other work."""

    def __init__(self, product: Any, num_rows: int, wait: Callable[[], object], rest: Any) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.eye(4))
        self.product, self.num_rows, self.wait, self.rest = product, num_rows, wait, rest

    def forward(self, x: Tensor) -> None:
        with routing.region("router"):
            self.wait()
        for _ in range(2):
            self.product(x[: self.num_rows], self.weight)
        self.rest()


def subject(model: nn.Module, is_dense: bool = False) -> Any:
    """What the meters read of a subject."""
    return SimpleNamespace(model=model, is_dense=is_dense)


def ratios(speedup: float, tau: float) -> Metrics:
    """Speed-up and FLOP ratio at batch 8."""
    values = {"infer/speedup_b8": speedup, "infer/tau_b8": tau}
    return {key: Metric(value=value, unit="1") for key, value in values.items()}


@pytest.mark.parametrize("wait_us", [0, 200, 800])
def test_a_known_wait_in_a_region_is_routing(wait_us: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dense takes 1,000 us: two products of 256 us, and 488 us of other work.

    The method has half of the rows. Its products take 1.5 x 256 = 384 us, other work half of
    dense's, 244 us, its calls 22 us more, and the router waits.

    ideal 1,000 / 2, routing the wait, products 384 - 512 / 2 = 128, rest 22.
    """
    clock = SimulatedStopwatch()
    for module in (products, regions):
        monkeypatch.setattr(module, "stopwatch_for", lambda device: clock)
    with timed_product(clock, monkeypatch) as product:
        dense = Work(product, 8, lambda: None, lambda: clock.advance(488e-6))
        model = Work(
            product, 4, lambda: clock.advance(wait_us * 1e-6), lambda: clock.advance(266e-6)
        )
        inputs = Inputs({8: [torch.ones(8, 4)]})  # type: ignore[list-item]
        found = ratios(1000 / (650 + wait_us), 2.0)
        found |= measure_time_shares(subject(model), inputs).metrics
        parts = measure_time_parts(subject(model), dense, inputs, found).metrics
    values = [parts[key].shown for key in KEYS]
    assert values == pytest.approx([0.5, wait_us / 1000, 0.128, 0.022])


def test_parts_are_missing_where_a_ratio_is() -> None:
    """With the reason of the ratio, and without running anything."""
    found = ratios(1.5, 2.0) | {"infer/speedup_b8": missing("1", "times never settled")}
    parts = measure_time_parts(subject(nn.Module()), nn.Module(), Inputs({8: []}), found).metrics
    assert {(parts[key].value, parts[key].reason) for key in KEYS} == {
        (None, "times never settled")
    }


def test_products_that_do_not_run_alone_cost_the_parts_and_not_the_trial() -> None:
    """A model without any has no parts, with the reason."""
    inputs = Inputs({8: [torch.ones(8, 4)]})  # type: ignore[list-item]
    arguments = (subject(nn.Identity()), nn.Identity(), inputs, ratios(1.5, 2.0))
    metric = measure_time_parts(*arguments).metrics[KEYS[0]]
    assert metric.value is None
    assert "no products" in (metric.reason or "")


def test_the_dense_model_has_no_parts() -> None:
    """Its pass is what the parts are shares of."""
    assert not measure_time_parts(
        subject(nn.Module(), True), nn.Module(), Inputs({8: []}), {}
    ).metrics


@pytest.mark.soak
def test_a_wait_as_long_as_the_pass_is_attributed_within_5_percent() -> None:
    """On the real clock: matrix products, and a wait in the router that is known by spinning."""

    def spin(seconds: float) -> None:
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            pass

    x = torch.randn(256, 4)
    hidden = torch.randn(4, 1024)
    square = torch.randn(1024, 1024)

    def product(x: Tensor, weight: Tensor) -> Tensor:
        return (x @ weight @ hidden).relu() @ square

    def nothing() -> None:
        return None

    with pinned_threads(1):
        dense = Work(product, 256, nothing, nothing)
        start = time.perf_counter()
        with torch.inference_mode():
            for _ in range(20):
                dense(x)
        wait_s = (time.perf_counter() - start) / 20
        model = Work(product, 128, lambda: spin(wait_s), nothing)
        timing = compare(model, dense, [x], rounds=10, warmup_s=0.3)
        tau = count(dense, x).total / count(model, x).total
        inputs = Inputs({8: [x]})  # type: ignore[list-item]
        found = ratios(timing.ratio or 0.0, tau)
        found |= measure_time_shares(subject(model), inputs).metrics
        parts = measure_time_parts(subject(model), dense, inputs, found).metrics
    ideal, routed, slower, rest = (float(parts[key].shown or 0) for key in KEYS)
    assert routed == pytest.approx(wait_s / timing.baseline_s, rel=0.05)
    assert abs(rest) < 0.05 * (ideal + routed + slower + rest)
