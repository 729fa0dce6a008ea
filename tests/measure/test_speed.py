"""A time is shown only where it is steady, and so is what follows from it."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from bench.config import MeasureConfig
from bench.measure import speed
from bench.measure.findings import Part
from bench.measure.inputs import Inputs
from bench.meters.time.clocks import DeviceState
from bench.meters.time.paired import PairedTiming
from bench.meters.time.rounds import Round
from bench.records.record import Metric

ROUND = Round(order="ABBA", candidate_s=2.0, baseline_s=3.0)


def metrics_of(
    monkeypatch: pytest.MonkeyPatch, *, steady: bool, timed: Round = ROUND
) -> dict[str, Metric]:
    """The timing metrics of a method with tau 2 with a ratio of 1.5 [1.4, 1.6]."""
    return dict(found_by(monkeypatch, steady=steady, timed=timed).metrics)


def found_by(monkeypatch: pytest.MonkeyPatch, *, steady: bool, timed: Round) -> Part:
    """The same metrics, and the raw rounds."""
    timing = timing_of(steady=steady, timed=timed)
    monkeypatch.setattr(speed, "compare", lambda *arguments, **settings: timing)
    subject = subject_on("cpu")
    flops = {"infer/tau_b1": Metric(value=2.0, unit="1")}
    return speed.measure_speed(subject, None, Inputs({1: []}), flops)  # type: ignore[arg-type]


def subject_on(device: str, is_dense: bool = False) -> SimpleNamespace:
    """A subject without a model on a kind of device."""
    where = SimpleNamespace(type=device)
    return SimpleNamespace(config=MeasureConfig(), is_dense=is_dense, model=None, device=where)


def timing_of(*, steady: bool, timed: Round = ROUND) -> PairedTiming:
    """A comparison of one round with a ratio of 1.5 [1.4, 1.6]."""
    return PairedTiming(
        ratio=1.5,
        ci_low=1.4,
        ci_high=1.6,
        noise_floor=None,
        steady=steady,
        rounds=(timed,),
        num_samples=4,
        num_passes=(1, 1),
        num_outliers=0,
        num_threads=1,
        warmup_s=0.1,
    )


@pytest.mark.parametrize(
    ("floor", "device", "noisy"),
    [(0.025, "cpu", False), (0.031, "cpu", True), (0.025, "cuda", True), (0.019, "cuda", False)],
)
def test_timing_noise_is_a_remark_beside_its_number(
    monkeypatch: pytest.MonkeyPatch, floor: float, device: str, noisy: bool
):
    """The limit is 3 % on a CPU and 2 % on a GPU; the floor is shown on either side of it."""
    timing = replace(timing_of(steady=True), noise_floor=floor)
    monkeypatch.setattr(speed, "run_control", lambda *arguments, **settings: timing)
    subject = subject_on(device, is_dense=True)
    found = speed.measure_speed(subject, None, Inputs({1: []}), {}).metrics  # type: ignore[arg-type]
    metric = found["infer/noise_floor_b1"]
    assert metric.shown == floor
    assert ("identical models differed by up to" in (metric.reason or "")) == noisy


@pytest.mark.parametrize(("device", "warmup_s"), [("cpu", 0.3), ("cuda", 0.5)])
def test_a_gpu_warms_up_longer(monkeypatch: pytest.MonkeyPatch, device: str, warmup_s: float):
    """5 s where a CPU takes 3 s, and 0.5 s where it takes 0.3 s."""
    asked: list[float] = []

    def compared(*models: object, **settings: float) -> PairedTiming:
        asked.append(settings["warmup_s"])
        return timing_of(steady=True)

    monkeypatch.setattr(speed, "compare", compared)
    speed.measure_speed(subject_on(device), None, Inputs({1: []}), {})  # type: ignore[arg-type]
    assert asked == pytest.approx([warmup_s])


def test_a_gpu_adds_its_own_clock_to_every_round(monkeypatch: pytest.MonkeyPatch):
    """0.5 s of 2 s on the device is a share of a quarter; clocks that NVML lacks are NaN."""
    state = DeviceState(sm_mhz=1980, temperature_c=41)
    timed = replace(ROUND, candidate_device_s=0.5, baseline_device_s=1.5, state=state)
    found = found_by(monkeypatch, steady=True, timed=timed)
    raw = found.raw
    assert found.metrics["infer/device_time_share_b1"].shown == 0.25
    assert (raw["candidate_device_s_b1"], raw["sm_mhz_b1"]) == ([0.5], [1980])
    assert np.isnan(raw["power_w_b1"]).all()


def test_a_cpu_has_no_device_clock(monkeypatch: pytest.MonkeyPatch):
    """Only the host's seconds are kept."""
    found = found_by(monkeypatch, steady=True, timed=ROUND)
    assert "infer/device_time_share_b1" not in found.metrics
    assert set(found.raw) == {"candidate_s_b1", "baseline_s_b1", "order_b1", "reason_b1"}


def test_a_steady_time_gives_speedup_and_realised_share(monkeypatch: pytest.MonkeyPatch):
    """1.5 of a theoretical 2 is a realised share of 0.75, with bounds 0.7 and 0.8."""
    found = metrics_of(monkeypatch, steady=True)
    assert found["infer/speedup_b1"].shown == 1.5
    realised = found["infer/realised_b1"]
    assert (realised.low, realised.shown, realised.high) == pytest.approx((0.7, 0.75, 0.8))


def test_what_follows_from_a_doubtful_time_is_not_shown_either(monkeypatch: pytest.MonkeyPatch):
    """Times that never settled give neither a speed-up nor a share of one, and say why."""
    found = metrics_of(monkeypatch, steady=False)
    for name in ("speedup", "realised", "saving_realised"):
        metric = found[f"infer/{name}_b1"]
        assert metric.shown is None
        assert metric.reason == "times never settled in the warm-up"


def test_raw_rounds_hold_their_order_and_why_one_does_not_count(monkeypatch: pytest.MonkeyPatch):
    """An empty reason counts; a slowed GPU's events stand beside its clocks."""
    slow = DeviceState(events=("HwThermalSlowdown", "SwPowerCap"))
    bad = replace(ROUND, order="BAAB", state=slow, reason="the GPU slowed its clocks")
    timing = replace(timing_of(steady=True), rounds=(ROUND, bad))
    monkeypatch.setattr(speed, "compare", lambda *arguments, **settings: timing)
    raw = speed.measure_speed(subject_on("cpu"), None, Inputs({1: []}), {}).raw  # type: ignore[arg-type]
    assert raw["order_b1"].tolist() == ["ABBA", "BAAB"]
    assert raw["reason_b1"].tolist() == ["", "the GPU slowed its clocks"]
    assert raw["clock_events_b1"].tolist() == ["HwThermalSlowdown SwPowerCap"]


def test_how_it_was_timed_stands_in_the_record(monkeypatch: pytest.MonkeyPatch):
    """Warm-up, rounds, outliers, compiled graphs, threads, cores and the load around it."""
    monkeypatch.setattr(speed, "compare", lambda *arguments, **settings: timing_of(steady=False))
    subject = subject_on("cpu")
    found = speed.measure_speed(subject, None, Inputs({1: []}), {})  # type: ignore[arg-type]
    details = found.diagnostics["timing"]["b1"]
    assert (details["steady"], details["warmup_s"], details["num_rounds"]) == (False, 0.1, 1)
    assert (details["num_outliers"], details["num_recompiles"]) == (0, 0)
    assert details["num_threads"] == 1
    assert details["cores"]
    assert details["load_1min_before"] >= 0 <= details["load_1min_after"]
