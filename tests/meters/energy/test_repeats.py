"""Ratios of two methods' energies, and spans around work of unknown length."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pynvml
import pytest

from bench.meters.energy import EnergyMeter
from bench.meters.energy.polling import Sample, integral_j
from bench.meters.energy.repeats import compare_energy
from tests.fakes.nvml import FakeGpu


def measure_ratio(slow_s: float, slow_w: float, fast_s: float, fast_w: float, **settings):
    """Compare a baseline `slow` and a candidate `fast`: passes of given seconds and watts."""
    gpu = FakeGpu(**settings)
    meter = EnergyMeter("fake", gpu.rig())
    return compare_energy(meter, gpu.work(fast_s, fast_w), gpu.work(slow_s, slow_w), 2.0)


def test_twice_as_long_at_equal_power_is_twice_the_energy():
    """Durations 1 : 2 at 500 W: 2.00 within 0.5 %, although both windows are equally long."""
    ratio = measure_ratio(0.026, 500, 0.013, 500).ratio
    assert ratio.value == pytest.approx(2.0, rel=0.005)
    assert ratio.low <= 2.0 <= ratio.high


def test_equal_energy_per_pass_at_other_power_and_duration_is_equal():
    """13 ms at 500 W and 26 ms at 250 W are 6.5 J each: 1.00 within 0.5 %."""
    ratio = measure_ratio(0.026, 250, 0.013, 500).ratio
    assert ratio.value == pytest.approx(1.0, rel=0.005)


def test_the_sensors_error_is_in_the_absolute_interval_and_not_in_the_ratios():
    """The sensor's 5 % widens joules per pass; in the ratio it cancels, within 1 %."""
    found = measure_ratio(0.026, 500, 0.013, 500, noise_w=5.0)
    absolute = found.candidate.interval
    assert absolute.high / absolute.value - 1 >= 0.05
    assert found.ratio.high / found.ratio.low - 1 < 0.01


def test_windows_of_both_models_alternate():
    """AB, BA, AB, BA, AB: drift affects both alike."""
    gpu, order = FakeGpu(), []
    meter = EnergyMeter("fake", gpu.rig())
    meter.measure = lambda step, seconds: order.append(step)  # type: ignore[method-assign]
    compare_energy(meter, gpu.work(0.01), gpu.work(0.01), 2.0)
    a, b = order[:2]
    assert order == [a, b, b, a, a, b, b, a, a, b]


@pytest.mark.parametrize("update_s", [0.02, 0.1])
def test_work_begins_at_every_phase_of_the_counters_period(update_s):
    """The eight stretches of a window lie apart: no gap between phases is a quarter of a period."""
    gpu = FakeGpu(update_s=update_s)
    starts: list[float] = []
    ended_s = 0.0

    def step() -> None:
        nonlocal ended_s
        if gpu.clock.now > ended_s:  # a rest lies between
            starts.append((gpu.clock.now - gpu.begun_s) / update_s % 1)
        gpu.work(0.013)()
        ended_s = gpu.clock.now

    meter = EnergyMeter("fake", gpu.rig())
    meter.calibrate(2.0)
    assert meter.measure(step, 2.5).num_phases == len(starts) == 8
    phases = sorted(starts)
    gaps = [b - a for a, b in pairwise([*phases, phases[0] + 1])]
    assert max(gaps) < 0.25


def test_windows_begin_at_different_phases():
    """Each window has a first phase of its own, in an order of its own."""
    meter = EnergyMeter("fake", FakeGpu().rig())
    first, second = meter.pauses_s(), meter.pauses_s()
    assert len(set(first) | set(second)) == 16
    assert sorted(first) != first
    assert 0 <= min(first) < max(first) < 0.101  # of a calibrated period


def test_long_passes_leave_fewer_stretches():
    """Passes of 1 s in a window of 2.5 s: three of them, and no more than the window asks for."""
    gpu = FakeGpu()
    reading = EnergyMeter("fake", gpu.rig()).measure(gpu.work(1.0), 2.5)
    assert (reading.num_passes, reading.num_phases) == (3, 3)
    assert reading.j_per_pass == pytest.approx(500, rel=0.005)
    assert reading.work_s == pytest.approx(3.0, rel=0.01)


def test_rests_are_no_part_of_a_pass():
    """Gross energy is of the whole window; a pass of 0.1 s at 500 W stays 50 J, 42.5 J net."""
    gpu = FakeGpu()
    reading = EnergyMeter("fake", gpu.rig()).measure(gpu.work(0.1), 2.5)
    assert reading.j_per_pass == pytest.approx(50, rel=0.002)
    assert reading.net_j_per_pass == pytest.approx(42.5, rel=0.005)
    assert reading.mean_power_w == pytest.approx(500, rel=0.005)
    assert reading.rest_s > 0.1
    assert reading.gross_j == pytest.approx(500 * reading.work_s + 75 * reading.rest_s, rel=0.005)


def warming(c_per_s: float, until_s: float = 1e9):
    """A board that warms up, its meter, and a pass of 0.1 s."""
    gpu = FakeGpu()

    def step() -> None:
        gpu.work(0.1)()
        gpu.temperature_c = 40 + int(c_per_s * min(until_s, gpu.clock.now - gpu.begun_s))

    return gpu, EnergyMeter("fake", gpu.rig()), step


def test_heating_ends_when_ten_seconds_warm_by_less_than_a_degree():
    """0.3 C/s for 25 s: stretches of 10 s warm by 3, 3, 1 and 0 degrees, however short windows are.

    A thermometer of whole degrees shows no change in 2 s.
    """
    gpu, meter, step = warming(0.3, until_s=25.0)
    meter.heat_up(step, 2.0)
    assert meter.is_warm is True
    assert 40 <= gpu.clock.now - gpu.begun_s < 41


def test_heating_stops_after_a_minute_if_the_board_never_settles():
    """0.3 C/s without end: not settled."""
    gpu, meter, step = warming(0.3)
    meter.heat_up(step, 2.0)
    assert meter.is_warm is False
    assert 60 <= gpu.clock.now - gpu.begun_s < 71


def test_without_a_thermometer_the_state_is_unknown():
    """Neither True nor False."""
    gpu, meter, step = warming(0.0)
    gpu.errors = dict.fromkeys(("nvmlDeviceGetTemperatureV", "nvmlDeviceGetTemperature"), 3)
    meter.heat_up(step, 2.0)
    assert meter.is_warm is None


def test_throttling_under_load_is_recorded_although_it_ends_with_the_load():
    """The state is read while the last pass runs: the idle board afterwards shows none."""
    gpu = FakeGpu()

    class Queue:
        """Passes finish when they are waited for."""

        def bound(self) -> None:
            gpu.event_bits = pynvml.nvmlClocksEventReasonHwThermalSlowdown

        def drain(self) -> None:
            gpu.event_bits = 0

    meter = EnergyMeter("fake", replace(gpu.rig(), launches=Queue()))
    assert meter.measure(gpu.work(0.1), 2.0).state.events == ("HwThermalSlowdown",)


def test_one_invalid_window_makes_the_whole_invalid():
    """A counter 10 % off is reported once for all windows."""
    found = measure_ratio(0.026, 500, 0.013, 500, gain=1.1)
    assert found.reason is not None
    assert found.reason.startswith("Inconsistent")


def test_a_span_measures_work_of_unknown_length_without_its_probes():
    """3 s at 500 W, of which a probe of 1 s is excluded: 1000 J in 2 s."""
    gpu = FakeGpu(noise_w=0.5)
    meter = EnergyMeter("fake", gpu.rig())
    window = meter.span(0.02)
    window.begin()
    gpu.work(1.0)()
    window.exclude(gpu.work(1.0))()
    gpu.work(1.0)()
    reading = window.end()
    assert reading.window_s == pytest.approx(2.0, rel=1e-3)
    assert reading.gross_j == pytest.approx(1000, rel=0.01)
    assert reading.valid


def test_the_integral_is_exact_for_linear_power():
    """0 to 100 W over 1 s are 50 J; from 0.25 to 0.75 s 25 J; one sample gives none."""
    samples = [Sample(t / 10, 0, 10.0 * t) for t in range(11)]
    assert integral_j(samples, 0.0, 1.0) == pytest.approx(50)
    assert integral_j(samples, 0.25, 0.75) == pytest.approx(25)
    assert integral_j(samples[:1], 0.0, 1.0) is None


@pytest.mark.parametrize(
    ("seconds", "update_s", "grade"),
    [(2.0, 0.02, "look"), (5.0, 0.1, "develop"), (5.0, 0.2, "look"), (10.0, 0.1, "publish")],
)
def test_a_reading_is_graded_by_its_length(seconds, update_s, grade):
    """5 s and 50 updates to develop, 10 s and 100 updates to publish."""
    gpu = FakeGpu(update_s=update_s * 0.999)
    meter = EnergyMeter("fake", gpu.rig())
    assert meter.measure(gpu.work(0.013), seconds).grade == grade


def test_a_grade_allows_for_the_periods_own_uncertainty():
    """100 updates of 100.1 ms take 10.01 s: a window of 10 s is still fit to publish."""
    gpu = FakeGpu(update_s=0.1001)
    assert EnergyMeter("fake", gpu.rig()).measure(gpu.work(0.1), 10.0).grade == "publish"
