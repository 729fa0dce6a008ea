"""Peaks of live tensors are exact to the byte, and the parts of a step sum to the whole."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from bench.meters.guard import MeterStateError
from bench.meters.memory.tensors import (
    find_largest_batch,
    measure_inference_memory,
    measure_peak_bytes,
    measure_training_memory,
)
from bench.types import Batch

KIB, MIB = 2**10, 2**20
FLOAT = 4


def big():
    """8 tensors of 4 MiB, all alive."""
    return [torch.zeros(MIB) for _ in range(8)]


def small():
    """512 tensors of 64 KiB, all alive."""
    return [torch.zeros(16 * KIB) for _ in range(512)]


def staircase():
    """6 MiB and 2 MiB alive together, then 2 MiB and 5 MiB: the peak is 8 MiB."""
    first = torch.zeros(6 * MIB // FLOAT)
    second = torch.zeros(2 * MIB // FLOAT)
    del first
    return second, torch.zeros(5 * MIB // FLOAT)


def untouched():
    """64 MiB that are never written."""
    return torch.empty(16 * MIB)


@pytest.mark.parametrize(
    ("work", "expected"),
    [(big, 32 * MIB), (small, 32 * MIB), (staircase, 8 * MIB), (untouched, 64 * MIB)],
)
def test_the_peak_is_exact_first_and_second_time(work, expected):
    """Closed forms, to the byte, however often they are measured in one process."""
    assert measure_peak_bytes(work) == expected
    assert measure_peak_bytes(work) == expected


def test_a_two_layer_mlp_by_hand():
    """Two activations are alive at any moment: 2 x 1024 x 512 floats."""
    first, second = nn.Linear(512, 512, bias=False), nn.Linear(512, 512, bias=False)
    inputs = torch.randn(1024, 512)
    with torch.inference_mode():
        peak = measure_peak_bytes(lambda: second(torch.relu(first(inputs))))
    assert peak == 2 * 1024 * 512 * FLOAT


def test_softmax_and_sort_need_little_more_than_their_tensors():
    """Scores, softmax, sorted values and int64 positions: 4 + 4 + 4 + 8 MiB, 64 KiB of scratch."""

    def work():
        scores = torch.randn(1024, 1024)
        return scores.softmax(-1).sort(-1), scores

    assert 20 * MIB <= measure_peak_bytes(work) <= 20 * MIB + 64 * KIB


def test_workspaces_inside_an_operator_count():
    """A 3x3 convolution may hold more than its output of 8 MiB, never less."""
    conv = nn.Conv2d(32, 32, 3, padding=1)
    images = torch.randn(4, 32, 128, 128)
    with torch.inference_mode():
        assert measure_peak_bytes(lambda: conv(images)) >= 4 * 32 * 128 * 128 * FLOAT


def test_a_window_that_allocates_nothing_is_an_error():
    """There is no number, rather than 0."""
    with pytest.raises(MeterStateError, match="allocated nothing"):
        measure_peak_bytes(lambda: None)


def test_it_refuses_under_a_dispatch_mode():
    """The counter's own tensors would be counted."""
    with FlopCounterMode(display=False), pytest.raises(MeterStateError, match="memory"):
        measure_peak_bytes(big)


class Net(nn.Module):
    """256 -> 512 -> 256 with a buffer of 1 KiB."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, 256))
        self.register_buffer("scale", torch.ones(256))

    def forward(self, batch):
        return self.layers(batch.inputs) * self.scale


NET_PARAMS = 256 * 512 + 512 + 512 * 256 + 256


def test_inference_adds_the_models_own_tensors():
    """Resident: parameters and buffer; window: hidden twice (relu), as the larger pair."""
    found = measure_inference_memory(Net(), Batch(torch.randn(128, 256), torch.zeros(128)))
    assert found.resident_bytes == (NET_PARAMS + 256) * FLOAT
    assert found.window.peak_bytes == 2 * 128 * 512 * FLOAT
    assert found.peak_tensor_bytes == found.resident_bytes + found.window.peak_bytes
    assert (found.window.reserved_bytes, found.window.device_used_bytes) == (None, None)


@pytest.mark.parametrize("set_to_none", [True, False])
def test_the_parts_of_a_training_step_are_exact_and_sum_to_the_peak(set_to_none):
    """AdamW: gradients as large as the parameters, two moments, a step counter per tensor."""
    model, batch = Net(), Batch(torch.randn(64, 256), torch.zeros(64))
    optimizer = torch.optim.AdamW(model.parameters(), foreach=False)
    steps = []

    def step():
        optimizer.zero_grad(set_to_none=set_to_none)
        model(batch).square().mean().backward()
        optimizer.step()
        steps.append(1)

    step()
    first = measure_training_memory(model, optimizer, step)
    assert first.params_bytes == NET_PARAMS * FLOAT
    assert first.buffers_bytes == 256 * FLOAT
    assert first.grads_bytes == NET_PARAMS * FLOAT
    assert first.optimizer_bytes == 2 * NET_PARAMS * FLOAT + 4 * FLOAT
    parts = (
        first.params_bytes
        + first.buffers_bytes
        + first.grads_bytes
        + first.optimizer_bytes
        + first.activation_bytes
    )
    assert parts == first.peak_tensor_bytes
    assert first.activation_bytes > 0
    assert len(steps) == 2  # one by the test, one measured: the meter runs the step once
    assert measure_training_memory(model, optimizer, step) == first


def test_measuring_a_step_changes_no_gradient():
    """A step that accumulates continues from its own gradients."""
    model = nn.Linear(8, 8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)

    def step():
        model(torch.ones(1, 8)).sum().backward()

    step()
    measure_training_memory(model, optimizer, step)
    assert torch.equal(model.weight.grad, torch.full((8, 8), 2.0))


@pytest.mark.parametrize("capacity", [0, 1, 5, 64, 1000, 4096])
def test_the_largest_batch_that_fits(capacity):
    """A device that holds `capacity` samples, probed up to 1000."""
    tried = []

    def run(size):
        tried.append(size)
        if size > capacity:
            raise torch.OutOfMemoryError("full")

    assert find_largest_batch(run, limit=1000) == min(capacity, 1000)
    assert max(tried) <= 1000
    assert len(tried) <= 21


def test_other_errors_of_a_batch_do_not_count_as_a_full_device():
    """Only OutOfMemoryError is a limit of the device."""

    def run(size):
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        find_largest_batch(run)
