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


@pytest.mark.gpu
def test_a_gpu_window_has_allocated_reserved_and_other_bytes():
    """1 GiB of tensors is allocated exactly, and at least as much is reserved."""
    window = measure_window(lambda: torch.zeros(2**28, device="cuda"), "cuda")
    assert window.peak_bytes == 2**30
    assert window.reserved_bytes >= 2**30
    assert window.device_used_bytes is None or window.non_torch_bytes is not None
