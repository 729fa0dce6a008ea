"""Peaks of live tensors are exact to the byte, and the parts of a step sum to the whole."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from bench.meters.guard import MeterStateError
from bench.meters.memory.alive import check_devices
from bench.meters.memory.tensors import (
    find_largest_batch,
    measure_inference_memory,
    measure_peak_bytes,
    measure_training_memory,
)
from bench.meters.memory.window import Window
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


class FromNumpy(nn.Module):
    """4 MB of numpy's memory as output, and 40 bytes of torch's on the way."""

    def forward(self, batch):
        torch.zeros(10)
        return torch.from_numpy(np.ones((1000, 1000), np.float32))


class FromABuffer(nn.Module):
    """4 MB of Python's memory, among the values of a dict."""

    def forward(self, batch):
        torch.zeros(10)
        return {"logits": [torch.frombuffer(bytearray(4_000_000), dtype=torch.float32)]}


@pytest.mark.parametrize("make", [FromNumpy, FromABuffer])
def test_a_peak_below_what_the_pass_returns_is_an_error(make):
    """Memory that torch's allocator does not give is in no event: no number, rather than 40."""
    with pytest.raises(MeterStateError, match="below the 4000000 bytes of the output"):
        measure_inference_memory(make(), Batch(torch.zeros(1, 1), torch.zeros(1)))


class Static(nn.Module):
    """Writes its output into the same 4 MB in every pass, as a captured graph does."""

    def __init__(self):
        super().__init__()
        self.output = torch.zeros(1000, 1000)

    def forward(self, batch):
        return self.output.add_(torch.ones(10).sum())


def test_an_output_kept_between_passes_is_in_doubt():
    """It is alive all the time, and in neither the window nor the model's tensors."""
    window = measure_inference_memory(Static(), Batch(torch.zeros(1, 1), torch.zeros(1))).window
    assert "4000000 bytes of the output are kept between passes" in window.reason


@pytest.mark.parametrize("returned", ["inputs", "weight"])
def test_an_output_that_is_an_input_or_a_weight_needs_no_memory(returned):
    """It is counted elsewhere, or was there before."""

    class Returning(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1000))

        def forward(self, batch):
            torch.zeros(10)
            return self.weight if returned == "weight" else batch.inputs[:1]

    batch = Batch(torch.zeros(1000, 2), torch.zeros(1))
    found = measure_inference_memory(Returning(), batch)
    assert (found.window.peak_bytes, found.window.reason) == (40, None)


def test_a_part_of_the_model_on_another_device_is_in_doubt():
    """Only one device is watched; a part without memory is on none."""
    net = Net()
    kept, meta = [*net.parameters()], torch.zeros(1, device="meta")
    window = Window(100)
    assert check_devices(window, [*kept, meta], torch.device("cpu")).reason is None
    assert "on cpu was not seen" in check_devices(window, kept, torch.device("cuda")).reason


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


def test_a_step_that_leaves_more_than_its_peak_is_in_doubt():
    """Gradients of numpy's memory: 1 MiB alive that no window saw."""
    model = nn.Linear(512, 512, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def step():
        torch.zeros(10)
        model.weight.grad = torch.from_numpy(np.ones((512, 512), np.float32))

    found = measure_training_memory(model, optimizer, step)
    assert f"{MIB - 40} bytes below what the step leaves alive" in found.window.reason


def test_a_step_that_allocates_nothing_has_its_reason_and_no_error():
    """The training goes on; its memory is in doubt."""
    model = nn.Linear(4, 4)
    steps = []
    found = measure_training_memory(
        model, torch.optim.SGD(model.parameters()), lambda: steps.append(1)
    )
    assert len(steps) == 1
    assert "allocated nothing" in found.window.reason


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
