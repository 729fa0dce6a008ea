"""A GPU's queue against a stand-in for CUDA's events: at most two passes deep."""

from __future__ import annotations

import pytest
import torch

from bench.meters.energy.launches import CudaLaunches


@pytest.fixture
def calls(monkeypatch) -> list[str]:
    """Calls of CUDA's functions, in order; events are numbered."""
    made: list[str] = []
    numbers = iter(range(100))

    class Event:
        def __init__(self, blocking):
            assert blocking  # waiting must not take a core from the polling thread
            self.number = next(numbers)

        def record(self, stream):
            made.append(f"record {self.number}")

        def synchronize(self):
            made.append(f"wait {self.number}")

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: "stream")
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: made.append("drain"))
    return made


def test_a_pass_waits_for_the_one_before(calls):
    """The latest pass may be unfinished, the one before may not: two are queued at most."""
    launches = CudaLaunches(torch.device("cuda"))
    for _ in range(3):
        launches.bound()
    assert calls == ["record 0", "record 1", "wait 0", "record 2", "wait 1"]


def test_after_draining_there_is_no_event_to_wait_for(calls):
    """The next window begins with an empty queue."""
    launches = CudaLaunches(torch.device("cuda"))
    launches.bound()
    launches.drain()
    launches.bound()
    assert calls == ["record 0", "drain", "record 1"]
