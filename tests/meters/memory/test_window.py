"""Memory windows: only what the work allocates counts, and other threads are reported."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from bench.meters.guard import MeterStateError
from bench.meters.memory.tensors import measure_peak_bytes
from bench.meters.memory.window import measure_window

MIB = 2**20


def in_a_thread():
    """16 MiB in a thread of its own, 40 bytes here."""
    kept = []
    thread = threading.Thread(target=lambda: kept.append(torch.zeros(4 * MIB)), name="aside")
    thread.start()
    thread.join()
    return kept, torch.zeros(10)


def test_memory_of_another_thread_is_reported():
    """The profiler records one thread: allocations in others make the peak a lower bound."""
    assert (
        measure_window(in_a_thread).reason == "memory of work in other threads (aside) was not seen"
    )
    with pytest.raises(MeterStateError, match="aside"):
        measure_peak_bytes(in_a_thread)


def test_memory_of_a_thread_pool_is_reported():
    """Also where the work goes to a worker that existed before the window."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(torch.zeros, 1).result()
        window = measure_window(
            lambda: (pool.submit(torch.zeros, 4 * MIB).result(), torch.zeros(10))
        )
    assert "a thread pool" in window.reason


def test_the_window_of_one_thread_is_complete():
    """Threads that wait, of which this process has some, are not reported."""
    release = threading.Event()
    thread = threading.Thread(target=release.wait)
    thread.start()
    assert measure_window(lambda: torch.zeros(MIB)).reason is None
    release.set()
    thread.join()


def test_freeing_an_older_block_counts_only_if_prepare_allocated_it():
    """Allocations of `prepare` are not counted, and freeing them makes room in the window."""
    held = []

    def work():
        held.clear()
        return torch.zeros(MIB)

    window = measure_window(work, prepare=lambda: held.append(torch.zeros(MIB // 2)))
    assert window.peak_bytes == 2 * MIB


def profile_inside():
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]):
        return torch.zeros(MIB)


def profile_of_autograd():
    with torch.autograd.profiler.profile():
        return torch.zeros(MIB)


def end_the_profile():
    kept = torch.zeros(MIB)
    torch.autograd._disable_profiler()
    return kept


@pytest.mark.parametrize("work", [profile_inside, profile_of_autograd, end_the_profile])
@pytest.mark.filterwarnings("ignore")
def test_work_that_ends_the_profile_is_refused(work):
    """The allocator's events of the window are lost with it; the next window is complete again."""
    with pytest.raises(MeterStateError, match="a profiler of its own"):
        measure_window(work)
    assert measure_window(lambda: torch.zeros(MIB)).peak_bytes == 4 * MIB


@pytest.mark.parametrize("device", ["meta", "mps", "xpu:0"])
def test_a_device_without_a_meter_is_refused(device):
    """The CPU's events would show what little such work allocates there."""
    with pytest.raises(MeterStateError, match="no meter"):
        measure_window(lambda: torch.zeros(MIB), device)


class Allocator:
    """torch.cuda's functions over a number of bytes."""

    def __init__(self, patch) -> None:
        self.live = self.peak = self.used = 0
        functions = {
            "synchronize": lambda device=None: None,
            "empty_cache": lambda: None,
            "reset_peak_memory_stats": self.reset,
            "memory_allocated": lambda device: self.live,
            "max_memory_allocated": lambda device: self.peak,
            "memory_reserved": lambda device: self.live,
            "max_memory_reserved": lambda device: self.peak,
            "mem_get_info": lambda device: (10**9 - self.used, 10**9),
        }
        for name, function in functions.items():
            patch.setattr(torch.cuda, name, function)
        patch.setattr(torch.cuda.memory, "reset_peak_memory_stats", self.reset)
        patch.setattr(torch._C, "_cuda_resetPeakMemoryStats", self.reset, raising=False)
        patch.setattr("bench.meters.memory.window.is_exclusive", lambda device: True)

    def reset(self, device=None) -> None:
        self.peak = self.live

    def allocate(self, num_bytes: int) -> None:
        self.live += num_bytes
        self.peak = max(self.peak, self.live)


def test_a_gpus_peak_is_that_of_the_window(monkeypatch):
    """100 bytes before, 300 and then 200 more: 300; memory given back by others is no growth."""
    board = Allocator(monkeypatch)
    board.allocate(100)

    def work():
        board.allocate(300)
        board.allocate(-100)
        board.used = -50

    window = measure_window(work, "cuda")
    assert (window.peak_bytes, window.reserved_bytes) == (300, 400)
    assert window.device_used_bytes is None


@pytest.mark.parametrize(
    "reset",
    [
        lambda: torch.cuda.reset_peak_memory_stats(),
        lambda: torch.cuda.memory.reset_peak_memory_stats(),
        lambda: torch._C._cuda_resetPeakMemoryStats(0),
    ],
)
def test_a_high_water_mark_that_the_work_resets_is_refused(monkeypatch, reset):
    """300 bytes, then a reset at 50: the peak would read 50. The functions are restored."""
    board = Allocator(monkeypatch)
    before = torch.cuda.reset_peak_memory_stats

    def work():
        board.allocate(300)
        board.allocate(-250)
        reset()

    with pytest.raises(MeterStateError, match="reset the high-water mark"):
        measure_window(work, "cuda")
    assert torch.cuda.reset_peak_memory_stats is before
    board.live = board.peak = 0
    assert measure_window(lambda: board.allocate(10), "cuda").peak_bytes == 10


@pytest.mark.gpu
def test_a_gpu_window_has_allocated_reserved_and_other_bytes():
    """1 GiB of tensors is allocated exactly, and at least as much is reserved."""
    window = measure_window(lambda: torch.zeros(2**28, device="cuda"), "cuda")
    assert window.peak_bytes == 2**30
    assert window.reserved_bytes >= 2**30
    assert window.device_used_bytes is None or window.non_torch_bytes is not None
