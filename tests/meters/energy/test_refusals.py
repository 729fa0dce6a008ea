"""Every case in which there is no energy, or none to trust, has its own name."""

from __future__ import annotations

import os

import pynvml
import pytest
import torch

from bench.meters.energy import (
    CounterReset,
    CounterStuck,
    DriverFailed,
    EnergyMeter,
    EnergyUnsupported,
    NotExclusive,
    WindowTooShort,
)
from bench.meters.energy.refusals import NoGpu
from bench.meters.guard import MeterStateError
from tests.fakes.nvml import FakeGpu

COUNTER = "nvmlDeviceGetTotalEnergyConsumption"
NOT_SUPPORTED = pynvml.NVML_ERROR_NOT_SUPPORTED
LOST = pynvml.NVML_ERROR_GPU_IS_LOST


def measure(gpu: FakeGpu, seconds: float = 2.0, idle_s: float = 1.0):
    meter = EnergyMeter("fake", gpu.rig())
    step = gpu.work(0.013)
    meter.calibrate(idle_s, step)
    return meter.measure(step, seconds)


@pytest.mark.parametrize("update_s", [0.02, 0.1])
def test_a_window_of_fewer_than_20_updates_is_refused(update_s):
    """19 updates give no number at all, 20.5 do."""
    with pytest.raises(WindowTooShort, match="20 updates"):
        measure(FakeGpu(update_s=update_s), 19 * update_s)
    assert measure(FakeGpu(update_s=update_s), 20.5 * update_s).gross_j > 0


@pytest.mark.parametrize("after_s", [0.0, 3.0, 6.5])
def test_a_counter_that_stands_still_is_stuck(after_s):
    """At once, while calibrating under load, and in the middle of a window."""
    with pytest.raises(CounterStuck):
        measure(FakeGpu(stuck_at_s=1000 + after_s))


@pytest.mark.parametrize("after_s", [0.5, 4.0, 6.5])
def test_a_counter_that_goes_backwards_was_reset(after_s):
    """A driver that is loaded anew starts from zero; the difference would be negative."""
    with pytest.raises(CounterReset):
        measure(FakeGpu(resets_at_s=1000 + after_s))


def test_mig_is_not_supported():
    """With MIG the counter is that of the whole board."""
    with pytest.raises(EnergyUnsupported, match="MIG"):
        measure(FakeGpu(mig=1))


def test_without_a_counter_there_is_no_energy():
    """A driver without it says NotSupported, as on Jetson, and never 0."""
    with pytest.raises(EnergyUnsupported, match="energy counter"):
        measure(FakeGpu(errors={COUNTER: NOT_SUPPORTED}))


def test_a_field_can_fail_although_the_call_succeeds():
    """Each element's own return code is looked at: without power the counter cannot be checked."""
    field = pynvml.NVML_FI_DEV_POWER_INSTANT
    with pytest.raises(EnergyUnsupported, match="Not Supported"):
        measure(FakeGpu(errors={field: NOT_SUPPORTED}))


def test_a_boards_power_that_is_only_the_modules_is_labelled():
    """Grace Hopper's module holds a CPU too: its readings carry another scope."""
    assert measure(FakeGpu(scope="module")).scope == "module"
    assert measure(FakeGpu()).scope == "gpu"


OWN = os.getpid()


@pytest.mark.parametrize(
    ("pids", "alone"),
    [([], True), ([7], True), ([OWN], True), ([7, 8], False), ([OWN, 7], False)],
)
def test_another_process_on_the_board_is_refused(pids, alone):
    """No process or one unknown (a container hides numbers) may be this one; two are not."""
    if alone:
        assert measure(FakeGpu(pids=pids)).valid
    else:
        with pytest.raises(NotExclusive, match="1 other process"):
            measure(FakeGpu(pids=pids))


def test_a_process_that_comes_later_is_seen_at_the_windows_end():
    """Its joules are in the counter: no number."""
    with pytest.raises(NotExclusive):
        measure(FakeGpu(pids=[7], foreign_at_s=1000 + 7.0))


def test_an_idle_board_that_is_busy_is_refused():
    """Containers hide processes, but not their use of the board."""
    with pytest.raises(NotExclusive, match="35 % utilisation"):
        measure(FakeGpu(utilisation=35))


@pytest.mark.parametrize("what", [COUNTER, pynvml.NVML_FI_DEV_POWER_INSTANT])
def test_a_driver_that_fails_in_the_middle_is_named(what):
    """A lost GPU ends the reading, whether the counter or the power polled beside it notices."""
    with pytest.raises(DriverFailed, match="lost"):
        measure(FakeGpu(errors={what: LOST}, fails_at_s=1000 + 6.5))


def test_a_counter_that_disagrees_with_the_power_is_invalid():
    """10 % more than the integrated power: the number stays, marked, with both named."""
    reading = measure(FakeGpu(gain=1.10))
    assert reading.gross_j > 0
    assert not reading.valid
    assert reading.reason is not None
    assert reading.reason.startswith("Inconsistent: the counter says 1.1")
    assert measure(FakeGpu(gain=1.03)).valid


def test_more_than_the_limit_is_implausible():
    """A mean of 500 W on a board that allows itself 400 W."""
    reading = measure(FakeGpu(limit_w=400.0))
    assert reading.reason is not None
    assert reading.reason.startswith("Implausible")


def test_less_than_the_idle_board_is_implausible():
    """Work that draws 40 W on a board that draws 75 W idle."""
    reading = measure(FakeGpu(active_w=40.0))
    assert reading.reason is not None
    assert reading.reason.startswith("Implausible")


def test_a_cpu_has_no_energy_counter():
    """The refusal says so, before any driver is asked."""
    with pytest.raises(EnergyUnsupported, match="no NVIDIA GPU"):
        EnergyMeter(torch.device("cpu"))


def test_no_energy_under_a_profiler():
    """A probe inside the window would be measured with it."""
    with torch.profiler.profile(), pytest.raises(MeterStateError):
        measure(FakeGpu())


def test_what_the_work_raises_passes_and_ends_the_polling():
    """A model that fails is not the meter's failure."""
    gpu = FakeGpu()
    meter = EnergyMeter("fake", gpu.rig())
    meter.calibrate(1.0)

    def broken() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        meter.measure(broken, 2.0)
    meter.measure(gpu.work(0.01), 2.0)


@pytest.mark.parametrize("name", ["cpu", "cuda", "cuda:0"])
def test_a_device_may_be_named(name):
    """ "cuda:0" is a device and no board's UUID; without CUDA there is no GPU to read."""
    if torch.cuda.is_available() and name != "cpu":
        EnergyMeter(name).close()
        return
    with pytest.raises(NoGpu):
        EnergyMeter(name)
