"""A GPU's queue against a stand-in for CUDA's events: never more than two passes deep."""

from __future__ import annotations

import pytest
import torch

from bench.meters.energy.launches import CudaLaunches


@pytest.fixture
def seen(monkeypatch) -> list[str]:
    """What is asked of CUDA, in order; events are numbered."""
    asked: list[str] = []
    numbers = iter(range(100))

    class Event:
        def __init__(self, blocking):
            assert blocking  # waiting must not take a core from the polling thread
            self.number = next(numbers)

        def record(self, stream):
            asked.append(f"record {self.number}")

        def synchronize(self):
            asked.append(f"wait {self.number}")

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: "stream")
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: asked.append("drain"))
    return asked


def test_a_pass_waits_for_the_one_before(seen):
    """The latest pass may be unfinished, the one before may not: two are queued at most."""
    launches = CudaLaunches(torch.device("cuda"))
    for _ in range(3):
        launches.bound()
    assert seen == ["record 0", "record 1", "wait 0", "record 2", "wait 1"]


def test_after_draining_nothing_is_waited_for(seen):
    """The next window begins with an empty queue."""
    launches = CudaLaunches(torch.device("cuda"))
    launches.bound()
    launches.drain()
    launches.bound()
    assert seen == ["record 0", "drain", "record 1"]
