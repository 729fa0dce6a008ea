"""Products alone: which operations run again, with which operands, and their share of a pass."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench import routing
from bench.meters.flops.counter import count
from bench.meters.guard import MeterStateError
from bench.meters.time.products import MAX_BATCHES, REPEATS, Recording, _weights, product_share
from tests.fakes.timed_product import timed_product


class _Ticking:
    """A clock that passes a second with each piece of work."""

    def __init__(self, clock: Any) -> None:
        self.clock, self.now_s = clock, clock.now_s

    def measure(self, work: Any) -> Any:
        self.clock.advance(1.0)
        return self.clock.measure(lambda: (work(), self.clock.advance(1.0)))


class Mixed(nn.Module):
    """A linear layer, a convolution, attention, and a router's product."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.conv = nn.Linear(8, 8), nn.Conv1d(8, 8, 1)
        self.router = torch.randn(8, 2)  # a weight that is no parameter

    def forward(self, x: Tensor) -> Tensor:  # [2, 4, 8] -> [2, 1, 4, 8]
        with routing.region("router"):
            x = x * (x @ self.router).max()
        x = self.linear(x).relu()
        x = self.conv(x.transpose(1, 2)).transpose(1, 2)
        heads = x.contiguous()[:, None]  # [2, 1, 4, 8]
        return F.scaled_dot_product_attention(heads, heads, heads)


def recorded(model: nn.Module, x: Any) -> Recording:
    """The products of one pass in inference mode."""
    recording = Recording(_weights(model))
    with torch.inference_mode():
        count(model.eval(), x, on_product=recording.add)
    return recording


def test_products_outside_of_routing_are_recorded_in_their_order() -> None:
    """Not the router's, and nothing without FLOPs."""
    names = [call.func.name() for call in recorded(Mixed(), torch.randn(2, 4, 8)).calls]
    assert [name.removeprefix("aten::").split(".")[0] for name in names] == [
        *("addmm", "convolution", "_scaled_dot_product_flash_attention_for_cpu")
    ]


def test_weights_are_the_models_own_and_other_operands_stand_in() -> None:
    """Weights by address, the others by shape and strides."""
    model, x = Mixed(), torch.randn(2, 4, 8)
    linear, conv, attention = recorded(model, x).calls
    bias, rows, weight = linear.args
    assert bias.data_ptr() == model.linear.bias.data_ptr()
    assert weight.data_ptr() == model.linear.weight.data_ptr()
    assert rows.shape == (8, 8)
    assert rows.data_ptr() != x.data_ptr()
    assert conv.args[0].shape == (2, 8, 4)
    assert conv.args[0].stride() == (32, 1, 8)  # of the transposed one
    with torch.inference_mode():
        assert [call().shape for call in (linear, conv)] == [(8, 8), (2, 8, 4)]
        assert attention()[0].shape == (2, 1, 4, 8)


def test_offsets_are_kept_because_they_decide_what_is_computed() -> None:
    """Groups of 1 and 3 rows run again as groups of 1 and 3 rows."""
    ends = torch.tensor([1, 4], dtype=torch.int32)
    recording = Recording(frozenset())
    rows, weights = torch.ones(4, 8), torch.ones(2, 8, 8)
    count(F.grouped_mm, rows, weights, offs=ends, on_product=recording.add)
    (call,) = recording.calls
    operands = [*call.args, *call.keywords.values()]  # type: ignore[attr-defined]
    assert any(each is ends for each in operands)


def test_a_product_that_writes_to_a_weight_writes_elsewhere_again() -> None:
    """A buffer that holds a result is as it was after the products ran alone."""
    model = nn.Module()
    model.register_buffer("kept", torch.zeros(4, 4))
    model.forward = lambda x: torch.mm(x, x, out=model.kept)  # type: ignore[method-assign]
    recording = recorded(model, torch.eye(4))
    for call in recording.calls:
        with torch.inference_mode():
            call()
    assert len(recording.calls) == 1
    assert torch.equal(model.kept, torch.eye(4))


def test_stand_ins_share_memory_by_place() -> None:
    """Three products of 4 x 4 and one of 8 x 8 take what the largest takes, for each operand."""

    def model(sizes: list[int]) -> None:
        for size in sizes:
            torch.mm(torch.ones(size, size), torch.ones(size, size))

    recording = Recording(frozenset())
    count(model, [8, 4, 4, 4], on_product=recording.add)
    assert sorted(len(pool) for pool in recording.pools.values()) == [64, 64]
    left, right = recording.calls[1].args  # type: ignore[attr-defined]
    assert left.data_ptr() != right.data_ptr()
    assert left.abs().max() > 0


def test_the_share_is_that_of_the_clock(clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """One product of 256 FLOPs takes 256 us, one in the router 64 us, all else 680 us."""
    with timed_product(clock, monkeypatch) as product:
        weight = torch.eye(4)

        def model(x: Tensor) -> None:
            clock.advance(680e-6)
            product(x, weight)
            with routing.region("router"):
                product(x, weight[:, :1])

        found = product_share(model, [torch.ones(8, 4)] * 3, stopwatch=clock)
    assert found.time == pytest.approx(256 / 1000)
    assert found.routing_flops == pytest.approx(64 / 320)
    assert found.num_products == 3


@pytest.mark.parametrize(
    ("budget_s", "num"), [(0.001 * 2 * REPEATS * 4, 4), (1e-9, 1), (10.0, MAX_BATCHES)]
)
def test_as_many_batches_as_the_budget_allows(
    clock, monkeypatch: pytest.MonkeyPatch, budget_s: float, num: int
) -> None:
    """Passes of about a millisecond; at least one batch, at most MAX_BATCHES, evenly spread."""
    seen: list[float] = []
    with timed_product(clock, monkeypatch) as product:

        def model(x: Tensor) -> None:
            seen.append(float(x[0, 0]))
            clock.advance(0.99e-3 - 1e-6)
            product(x, torch.ones(1, 1))

        batches = [torch.full((1, 1), float(number)) for number in range(32)]
        product_share(model, batches, budget_s=budget_s, stopwatch=clock)
    assert seen[2 : 2 + num] == [float(place * 32 // num) for place in range(num)]


def test_random_numbers_of_the_model_are_untouched(clock) -> None:
    """What stands in is drawn elsewhere."""
    before = torch.get_rng_state()
    product_share(lambda x: x @ x, [torch.ones(4, 4)], stopwatch=_Ticking(clock))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_model_without_products_is_refused(clock) -> None:
    """There is nothing to run alone."""
    with pytest.raises(ValueError, match="no products"):
        product_share(lambda x: clock.advance(1.0), [torch.ones(1)], stopwatch=clock)


def test_it_refuses_under_a_dispatch_mode(clock) -> None:
    """As every timer does."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False), pytest.raises(MeterStateError, match="time of products"):
        product_share(Mixed(), [torch.ones(1)], stopwatch=clock)
