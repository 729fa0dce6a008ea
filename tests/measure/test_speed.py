"""A time is shown only where it is steady, and so is what follows from it."""

from __future__ import annotations

import math
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
from bench.meters.time.replicas import ReplicaError
from bench.meters.time.replicated import Pair, ReplicatedTiming
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
    give(monkeypatch, timing_of(steady=steady, timed=timed))
    flops = {"infer/tau_b1": Metric(value=2.0, unit="1")}
    return speed.measure_speed(subject_on("cpu"), None, Inputs({1: []}), flops)  # type: ignore[arg-type]


def give(monkeypatch: pytest.MonkeyPatch, *timings: PairedTiming, control: float = 0.0) -> None:
    """Let every comparison be one of `timings`, a process each, its control off by `control`."""
    own = replace(ROUND, candidate_s=1.0, baseline_s=1.0 + control)
    pairs = tuple(Pair(each, replace(each, rounds=(own,))) for each in timings)
    found = ReplicatedTiming(pairs, requested=1)
    monkeypatch.setattr(speed, "replicate", lambda work, replicas: {1: found})


def subject_on(device: str, is_dense: bool = False) -> SimpleNamespace:
    """A subject without a model on a kind of device."""
    where = SimpleNamespace(type=device)
    return SimpleNamespace(
        config=MeasureConfig(), is_dense=is_dense, model=None, device=where, make_baseline=object
    )


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
    give(monkeypatch, timing_of(steady=True), control=floor)
    subject = subject_on(device, is_dense=True)
    found = speed.measure_speed(subject, None, Inputs({1: []}), {}).metrics  # type: ignore[arg-type]
    metric = found["infer/noise_floor_b1"]
    assert metric.shown == pytest.approx(floor)
    assert ("identical models differed by up to" in (metric.reason or "")) == noisy


@pytest.mark.parametrize(("device", "warmup_s"), [("cpu", 0.3), ("cuda", 0.5)])
def test_a_gpu_warms_up_longer(monkeypatch: pytest.MonkeyPatch, device: str, warmup_s: float):
    """5 s where a CPU takes 3 s, and 0.5 s where it takes 0.3 s."""
    work = speed.paired_work(subject_on(device), None, Inputs({1: []}))  # type: ignore[arg-type]
    assert work.warmup_s == pytest.approx(warmup_s)


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
    assert set(found.raw) == {
        *("candidate_s_b1", "baseline_s_b1", "order_b1", "reason_b1", "process_b1")
    }


def test_a_steady_time_gives_speedup_and_realised_share(monkeypatch: pytest.MonkeyPatch):
    """Processes at 1.4, 1.5 and 1.6: of a theoretical 2 the geometric mean is realised to half.

    Logs 0.3365, 0.4055, 0.4700: mean 0.4040, variance 0.0668^2 / 3 with 2 degrees of freedom and
    0.031^2 between sessions with 11: 0.002447 with 5.04 of them, t = 2.5646 gives -+ 0.1269.
    """
    rounds = [replace(ROUND, baseline_s=2.0 * ratio) for ratio in (1.4, 1.5, 1.6)]
    give(monkeypatch, *(timing_of(steady=True, timed=each) for each in rounds))
    flops = {"infer/tau_b1": Metric(value=2.0, unit="1")}
    found = speed.measure_speed(subject_on("cpu"), None, Inputs({1: []}), flops)  # type: ignore[arg-type]
    metrics = found.metrics
    value, low, high = (math.exp(0.4040 + d) for d in (0, -0.1269, 0.1269))
    speedup, realised = metrics["infer/speedup_b1"], metrics["infer/realised_b1"]
    assert (speedup.low, speedup.shown, speedup.high) == pytest.approx((low, value, high), rel=1e-3)
    assert (realised.low, realised.high) == pytest.approx((low / 2, high / 2), rel=1e-3)
    assert metrics["infer/process_sd_b1"].shown == pytest.approx(0.0668, rel=1e-2)
    details = found.diagnostics["timing"]["b1"]
    assert details["num_processes"] == 3
    assert details["process_log_ratios"] == pytest.approx([math.log(r) for r in (1.4, 1.5, 1.6)])
    assert found.raw["process_b1"].tolist() == [0, 1, 2]


def test_one_process_gives_a_ratio_without_an_interval(monkeypatch: pytest.MonkeyPatch):
    """What changes between processes is unknown then."""
    found = metrics_of(monkeypatch, steady=True)
    assert found["infer/speedup_b1"].shown == pytest.approx(1.5)
    assert found["infer/speedup_b1"].low is None
    assert found["infer/process_sd_b1"].reason == "timed in one process"


def test_replicas_that_fail_leave_the_timing_of_this_process(monkeypatch: pytest.MonkeyPatch):
    """The note has the reason for the missing interval."""

    def replicate(work: object, replicas: object) -> dict[int, ReplicatedTiming]:
        if replicas is not None:
            raise ReplicaError("the models cannot be sent")
        pair = Pair(timing_of(steady=True), timing_of(steady=True))
        return {1: ReplicatedTiming((pair,), requested=1)}

    monkeypatch.setattr(speed, "replicate", replicate)
    arguments = (subject_on("cpu"), None, Inputs({1: []}), {}, object())
    found = speed.measure_speed(*arguments)  # type: ignore[arg-type]
    assert found.metrics["infer/speedup_b1"].shown == pytest.approx(1.5)
    assert found.notes == ["timed in one process only: the models cannot be sent"]


def test_what_follows_from_a_doubtful_time_is_not_shown_either(monkeypatch: pytest.MonkeyPatch):
    """Times that never settled give neither a speed-up nor a share of one, with the reason."""
    found = metrics_of(monkeypatch, steady=False)
    for name in ("speedup", "realised", "saving_realised"):
        metric = found[f"infer/{name}_b1"]
        assert metric.shown is None
        assert metric.reason == "times never settled in the warm-up"


def test_raw_rounds_hold_their_order_and_why_one_does_not_count(monkeypatch: pytest.MonkeyPatch):
    """An empty reason counts; a slowed GPU's events stand beside its clocks."""
    slow = DeviceState(events=("HwThermalSlowdown", "SwPowerCap"))
    bad = replace(ROUND, order="BAAB", state=slow, reason="the GPU slowed its clocks")
    give(monkeypatch, replace(timing_of(steady=True), rounds=(ROUND, bad)))
    raw = speed.measure_speed(subject_on("cpu"), None, Inputs({1: []}), {}).raw  # type: ignore[arg-type]
    assert raw["order_b1"].tolist() == ["ABBA", "BAAB"]
    assert raw["reason_b1"].tolist() == ["", "the GPU slowed its clocks"]
    assert raw["clock_events_b1"].tolist() == ["HwThermalSlowdown SwPowerCap"]


def test_how_it_was_timed_stands_in_the_record(monkeypatch: pytest.MonkeyPatch):
    """Warm-up, rounds, outliers, compiled graphs, threads, cores and the load around it."""
    give(monkeypatch, timing_of(steady=False))
    subject = subject_on("cpu")
    found = speed.measure_speed(subject, None, Inputs({1: []}), {})  # type: ignore[arg-type]
    details = found.diagnostics["timing"]["b1"]
    assert (details["steady"], details["warmup_s"], details["num_rounds"]) == (False, [0.1], 1)
    assert (details["num_outliers"], details["num_recompiles"]) == (0, 0)
    assert details["num_threads"] == 1
    assert details["cores"]
    assert details["load_1min_before"] >= 0 <= details["load_1min_after"]


def test_the_control_is_of_two_models_that_were_built_alike() -> None:
    """Its second model comes from where the baseline does, also in the dense model's own row."""
    for is_dense in (False, True):
        subject = subject_on("cpu", is_dense)
        built = []
        subject.make_baseline = lambda built=built: built.append(object()) or built[-1]
        baseline = subject.make_baseline()
        work = speed.paired_work(subject, baseline, Inputs({1: []}))  # type: ignore[arg-type]
        assert len(built) == 2
        assert work.twin is built[1] is not baseline
