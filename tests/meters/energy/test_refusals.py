"""Every case without an energy reading, or with an invalid one, has its own name."""

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
def test_a_window_of_fewer_than_20_updates_is_too_short(update_s):
    """19 updates give no number at all, 20.5 do."""
    with pytest.raises(WindowTooShort, match="20 updates"):
        measure(FakeGpu(update_s=update_s), 19 * update_s)
    assert measure(FakeGpu(update_s=update_s), 20.5 * update_s).gross_j > 0


@pytest.mark.parametrize("after_s", [0.0, 3.0, 6.5])
def test_a_counter_without_updates_is_stuck(after_s):
    """At once, while calibrating under load, and in the middle of a window."""
    with pytest.raises(CounterStuck):
        measure(FakeGpu(stuck_at_s=1000 + after_s))


@pytest.mark.parametrize("after_s", [0.5, 4.0, 6.5])
def test_a_counter_that_decreases_was_reset(after_s):
    """A reloaded driver starts from zero; the difference would be negative."""
    with pytest.raises(CounterReset):
        measure(FakeGpu(resets_at_s=1000 + after_s))


def test_mig_is_not_supported():
    """With MIG the counter is that of the whole board."""
    with pytest.raises(EnergyUnsupported, match="MIG"):
        measure(FakeGpu(mig=1))


def test_without_a_counter_there_is_no_energy():
    """A driver without one returns NotSupported, as on Jetson, and never 0."""
    with pytest.raises(EnergyUnsupported, match="energy counter"):
        measure(FakeGpu(errors={COUNTER: NOT_SUPPORTED}))


def test_a_field_can_fail_although_the_call_succeeds():
    """Each element's own return code is checked: without power the counter cannot be verified."""
    field = pynvml.NVML_FI_DEV_POWER_INSTANT
    with pytest.raises(EnergyUnsupported, match="Not Supported"):
        measure(FakeGpu(errors={field: NOT_SUPPORTED}))


def test_power_of_a_whole_module_is_labelled():
    """Grace Hopper's module contains a CPU too: its readings have another scope."""
    assert measure(FakeGpu(scope="module")).scope == "module"
    assert measure(FakeGpu()).scope == "gpu"


OWN = os.getpid()


@pytest.mark.parametrize(
    ("pids", "alone"),
    [([], True), ([7], True), ([OWN], True), ([7, 8], False), ([OWN, 7], False)],
)
def test_another_process_on_the_board_is_refused(pids, alone):
    """No process or one unknown (containers hide numbers) may be this one; two cannot be."""
    if alone:
        assert measure(FakeGpu(pids=pids)).valid
    else:
        with pytest.raises(NotExclusive, match="1 other process"):
            measure(FakeGpu(pids=pids))


def test_a_process_that_starts_later_is_found_at_the_windows_end():
    """Its joules are in the counter, so there is no number."""
    with pytest.raises(NotExclusive):
        measure(FakeGpu(pids=[7], foreign_at_s=1000 + 7.0))


def test_a_board_in_use_while_this_process_idles_is_refused():
    """Containers hide processes, but not their use of the board."""
    with pytest.raises(NotExclusive, match="35 % utilisation"):
        measure(FakeGpu(utilisation=35))


@pytest.mark.parametrize("what", [COUNTER, pynvml.NVML_FI_DEV_POWER_INSTANT])
def test_a_driver_that_fails_in_the_middle_is_reported(what):
    """A lost GPU ends the reading, whether the counter or the polled power fails first."""
    with pytest.raises(DriverFailed, match="lost"):
        measure(FakeGpu(errors={what: LOST}, fails_at_s=1000 + 6.5))


def test_a_counter_that_disagrees_with_the_power_is_invalid():
    """10 % more than the integrated power: the number is kept, invalid, with the reason."""
    reading = measure(FakeGpu(gain=1.10))
    assert reading.gross_j > 0
    assert not reading.valid
    assert reading.reason is not None
    assert reading.reason.startswith("Inconsistent: the counter is 1.1")
    assert measure(FakeGpu(gain=1.03)).valid


def test_more_than_the_limit_is_implausible():
    """A mean of 500 W on a board with a limit of 400 W."""
    reading = measure(FakeGpu(limit_w=400.0))
    assert reading.reason is not None
    assert reading.reason.startswith("Implausible")


def test_less_than_the_idle_board_is_implausible():
    """Work that draws 40 W on a board that draws 75 W idle."""
    reading = measure(FakeGpu(active_w=40.0))
    assert reading.reason is not None
    assert reading.reason.startswith("Implausible")


def test_a_cpu_has_no_energy_counter():
    """The exception names the reason, before any driver is loaded."""
    with pytest.raises(EnergyUnsupported, match="no NVIDIA GPU"):
        EnergyMeter(torch.device("cpu"))


def test_no_energy_under_a_profiler():
    """A profiler inside the window would be measured as well."""
    with torch.profiler.profile(), pytest.raises(MeterStateError):
        measure(FakeGpu())


def test_exceptions_of_the_work_pass_through_and_end_the_polling():
    """The meter can be used again afterwards."""
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
