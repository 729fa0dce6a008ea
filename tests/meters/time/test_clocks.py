"""GPU clocks and stopwatch against stand-ins for the driver and for CUDA."""

from __future__ import annotations

from types import SimpleNamespace

import pynvml
import pytest
import torch

from bench.meters.time.clocks import is_exclusive, read_state, state_reader
from bench.meters.time.stopwatch import CudaStopwatch, HostStopwatch, device_of, stopwatch_for
from bench.types import Batch


def driver(bits=0, **values):
    """pynvml's constants, with functions that return `values`; the others are not supported."""
    stand_in = SimpleNamespace(**{n: v for n, v in vars(pynvml).items() if not callable(v)})
    stand_in.NVMLError = pynvml.NVMLError
    stand_in.nvmlDeviceGetCurrentClocksEventReasons = lambda handle: bits

    def refuse(*arguments):
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)

    for name in ("ClockInfo", "TemperatureV", "Temperature", "PowerUsage"):
        value = values.get(name)
        setattr(
            stand_in, f"nvmlDeviceGet{name}", refuse if value is None else lambda *a, v=value: v
        )
    return stand_in


def test_a_state_holds_the_values_of_the_driver():
    """Clocks in MHz, degrees, watts; what is not supported is None."""
    state = read_state(driver(ClockInfo=1980, PowerUsage=512_300), handle=0)
    assert (state.sm_mhz, state.memory_mhz, state.power_w) == (1980, 1980, 512.3)
    assert state.temperature_c is None
    assert state.slowdown is None


@pytest.mark.parametrize("function", ["TemperatureV", "Temperature"])
def test_the_temperature_is_read_from_old_and_new_drivers(function):
    """Drivers before R565 have the older function only."""
    assert read_state(driver(**{function: 41}), handle=0).temperature_c == 41


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("SwPowerCap", True),
        ("GpuIdle", True),
        ("HwSlowdown", False),
        ("HwThermalSlowdown", False),
        ("SwThermalSlowdown", False),
        ("HwPowerBrakeSlowdown", False),
    ],
)
def test_slowdowns_make_a_round_invalid_and_a_power_cap_does_not(name, counts):
    """Heat and hardware limits distort a comparison; the power limit is the normal state."""
    bits = getattr(pynvml, f"nvmlClocksEventReason{name}")
    state = read_state(driver(bits), handle=0)
    assert (state.slowdown is None) is counts
    if not counts:
        assert name in state.slowdown


def test_a_cpu_has_no_gpu_state():
    """The reader returns None, and a CPU is never exclusive."""
    with state_reader(torch.device("cpu")) as read:
        assert read() is None
    assert not is_exclusive(torch.device("cpu"))


def test_the_gpu_stopwatch_waits_before_and_after_the_work(monkeypatch):
    """Order: wait, start event, work, end event, wait; device time comes from the events."""
    seen = []

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self, stream):
            seen.append("event")

        def elapsed_time(self, end):
            return 250.0  # ms

    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: seen.append("wait"))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    elapsed = CudaStopwatch(torch.device("cuda")).measure(lambda: seen.append("work"))
    assert seen == ["wait", "event", "work", "event", "wait"]
    assert elapsed.device_s == 0.25
    assert elapsed.host_s > 0


def test_the_stopwatch_follows_the_batches_device():
    """CPU tensors and anything without tensors are timed on the host."""
    batch = Batch(torch.zeros(2, 3), torch.zeros(2))
    assert device_of(batch) == device_of(torch.zeros(1)) == device_of([1]) == torch.device("cpu")
    assert isinstance(stopwatch_for(torch.device("cpu")), HostStopwatch)
    assert isinstance(stopwatch_for(torch.device("cuda")), CudaStopwatch)


def test_the_host_stopwatch_runs_the_work_once():
    """It measures a positive time, on a clock that never runs backwards."""
    calls = []
    watch = HostStopwatch()
    before = watch.now_s()
    assert watch.measure(lambda: calls.append(1)).host_s > 0
    assert calls == [1]
    assert watch.now_s() >= before


@pytest.mark.gpu
def test_a_real_gpu_has_clocks_and_the_stopwatch_waits_for_it():
    """NVML finds the torch device; host time of a large product covers its device time."""
    device = torch.device("cuda")
    with state_reader(device) as read:
        state = read()
    assert state is not None
    assert state.sm_mhz is None or state.sm_mhz > 0
    big = torch.randn(8192, 8192, device=device)
    elapsed = CudaStopwatch(device).measure(lambda: big @ big)
    assert elapsed.device_s is not None
    assert elapsed.host_s >= 0.9 * elapsed.device_s > 0
