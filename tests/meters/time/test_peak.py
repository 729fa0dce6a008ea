"""The measured speed limit: the fastest repeat, at least one thread's speed times the threads."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from bench.meters.guard import MeterStateError
from bench.meters.time import peak
from bench.meters.time.stopwatch import Elapsed


class Scripted:
    """A stopwatch on which products take 2, 1 and 4 ms in turn, and half as long on two threads."""

    def __init__(self):
        self.now, self.calls, self.threads = 0.0, 0, set()

    def now_s(self):
        self.now += 0.01
        return self.now

    def measure(self, work):
        self.calls += 1
        self.threads.add(torch.get_num_threads())
        busy = 4.0 if torch.get_num_threads() > 1 else 1.0  # another process holds the second core
        return Elapsed(busy * [0.002, 0.001, 0.004][self.calls % 3])


@pytest.fixture
def scripted(monkeypatch):
    watch = Scripted()
    monkeypatch.setattr(peak, "stopwatch_for", lambda device: watch)
    peak.measure_peak_flops.cache_clear()
    yield watch
    peak.measure_peak_flops.cache_clear()


ONE_THREAD = 2 * 1024**3 / 0.001  # the largest size in its fastest millisecond


def test_the_fastest_repeat_of_the_fastest_size_counts(scripted):
    """2 x 1024^3 FLOPs in the fastest of all repeats."""
    assert peak.measure_peak_flops(torch.float32, 1) == pytest.approx(ONE_THREAD)


def test_another_process_does_not_lower_the_limit_of_several_threads(scripted):
    """Two threads measured at half of one still have twice one thread's limit."""
    before = torch.get_num_threads()
    assert peak.measure_peak_flops(torch.float32, 2) == pytest.approx(2 * ONE_THREAD)
    assert scripted.threads == {1, 2}
    assert torch.get_num_threads() == before


def test_it_is_measured_once_per_process(scripted):
    """The second call returns the cached value."""
    peak.measure_peak_flops(torch.float32, 1)
    calls = scripted.calls
    peak.measure_peak_flops(torch.float32, 1)
    assert scripted.calls == calls


def test_it_refuses_under_a_dispatch_mode(scripted):
    """A limit that is too low would invalidate correct times."""
    with FlopCounterMode(display=False), pytest.raises(MeterStateError, match="peak FLOP/s"):
        peak.measure_peak_flops(torch.float32, 1)


@pytest.mark.gpu
def test_a_gpu_is_faster_in_half_precision():
    """Tensor cores: bfloat16 beats float32 without TF32 at least twice."""
    half, full = (
        peak.measure_peak_flops(dtype, device="cuda") for dtype in (torch.bfloat16, torch.float32)
    )
    assert half > 2 * full
