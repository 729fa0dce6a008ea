"""The early training steps under the meters: what they keep, and when that is no number to show."""

from __future__ import annotations

import threading

import torch
from torch import nn

from bench.measure.training_probe import TrainingProbe
from bench.records.record import Metric


def probed(in_a_thread: bool) -> dict[str, Metric]:
    """Memory of a step of one layer of 8 x 8, run here or in a thread of its own."""
    layer = nn.Linear(8, 8, bias=False)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)

    def step() -> None:
        layer(torch.ones(4, 8)).sum().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)

    def aside() -> None:
        thread = threading.Thread(target=step, name="aside")
        thread.start()
        thread.join()

    step()
    probe = TrainingProbe(layer)
    probe.memory(aside if in_a_thread else step, optimizer)
    return probe.metrics("not probed")


def test_a_step_keeps_its_parts() -> None:
    """64 weights and as many gradients are 256 bytes each; the rest is not negative."""
    found = probed(in_a_thread=False)
    assert found["train/params_bytes"].shown == 256
    assert found["train/grads_bytes"].shown == 256
    assert found["train/activation_bytes"].shown >= 0
    assert found["train/flops_per_step"].reason == "not probed"


def test_what_another_thread_allocates_leaves_the_step_in_doubt() -> None:
    """The allocator's events of one thread are a lower bound, and no table shows one."""
    found = probed(in_a_thread=True)
    assert found["train/peak_tensor_bytes"].shown is None
    assert "other threads (aside)" in found["train/peak_tensor_bytes"].reason
