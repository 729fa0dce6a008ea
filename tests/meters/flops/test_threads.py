"""Counts of work in other threads: followed where possible, flagged where not."""

from __future__ import annotations

import _thread
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue

import pytest
import torch
from torch import Tensor

from bench import routing
from bench.meters.energy.polling import Sample, ThreadPolling
from bench.meters.flops.counter import count

r = torch.randn


def product() -> Tensor:
    return r(3, 4) @ r(4, 5)


def test_work_in_started_threads_is_counted_with_its_region() -> None:
    """Work of threads and pool workers belongs to the region that it was sent from."""

    def model() -> None:
        with routing.region("expert"):
            thread = threading.Thread(target=product)
            thread.start()
        thread.join()
        with ThreadPoolExecutor(2) as pool, routing.region("router"):
            list(pool.map(lambda _: product(), range(3)))

    counted = count(model, strict=True)
    assert counted.by_region == {"expert": 120, "router": 3 * 120}


def test_work_sent_to_an_older_pool_is_counted_once() -> None:
    """Of an older pool's work, the count contains what was sent inside it, and no more."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(product).result()
        counted = count(lambda: pool.submit(product).result(), strict=True)
        pool.submit(product).result()
    assert counted.macs == 60


@pytest.mark.skipif(
    not Path("/proc/self/schedstat").exists(), reason="needs Linux: CPU times per thread"
)
def test_work_of_an_older_thread_is_flagged() -> None:
    """A thread that works through a queue cannot be counted: the count is incomplete."""
    orders: Queue[bool] = Queue()
    results: Queue[Tensor] = Queue()

    def work() -> None:
        while orders.get():
            deadline = time.thread_time() + 0.05  # enough CPU time to be seen on any machine
            while time.thread_time() < deadline:
                product()
            results.put(product())

    thread = threading.Thread(target=work, name="older", daemon=True)
    thread.start()

    def model() -> Tensor:
        orders.put(True)
        return results.get()

    counted = count(model)
    orders.put(False)
    thread.join()
    assert counted.ops_without_formula == {"thread::older": 1}


def test_an_idle_thread_does_not_work() -> None:
    """A poller that wakes up every 20 ms does not make a count of half a second incomplete."""
    stop = threading.Event()

    def poll() -> None:
        while not stop.wait(0.02):
            pass

    thread = threading.Thread(target=poll)
    thread.start()
    counted = count(time.sleep, 0.5)
    stop.set()
    thread.join()
    assert counted.complete


def test_a_thread_without_an_object_is_counted_too() -> None:
    """`_thread.start_new_thread` bypasses `threading.Thread`."""
    results: Queue[Tensor] = Queue()

    def model() -> Tensor:
        _thread.start_new_thread(lambda: results.put(product()), ())
        return results.get()

    assert count(model, strict=True).macs == 60


def test_work_that_is_not_finished_is_flagged() -> None:
    """A thread that outlives the count makes it incomplete."""
    release = threading.Event()
    counted = count(lambda: threading.Thread(target=release.wait, daemon=True).start())
    release.set()
    assert counted.ops_without_formula == {"thread::unfinished": 1}


def test_a_meters_own_thread_does_not_make_a_count_incomplete() -> None:
    """Polling a GPU's power takes CPU time and no FLOPs, however slow the driver is."""

    def slow_driver() -> Sample:
        end_s = time.thread_time() + 0.002
        while time.thread_time() < end_s:
            pass
        return Sample(time.monotonic(), 0, 0.0)

    polling = ThreadPolling(slow_driver, 0.004)
    counted = count(lambda: time.sleep(0.1))
    polling.stop()
    assert counted.complete, counted.ops_without_formula
