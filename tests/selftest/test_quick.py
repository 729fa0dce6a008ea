"""The self-test: its measurements, and the rules that separate wrong from noisy."""

from __future__ import annotations

import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch

from bench.meters.energy import EnergyMeter
from bench.meters.time.paired import PairedTiming
from bench.selftest import known_bytes, known_flops, quick
from bench.selftest.finding import Finding
from bench.selftest.quick import (
    check_known_flops,
    check_known_peaks,
    judge_energy,
    judge_noise,
    judge_ratio,
    try_energy,
)
from tests.fakes.nvml import FakeGpu


def timing(ratio=None, low=None, high=None, floor=None, reason=None) -> PairedTiming:
    return PairedTiming(
        ratio, low, high, floor, True, (), 1, (1, 1), 0, num_threads=1, warmup_s=0.0, reason=reason
    )


def test_known_flops_and_peaks_are_exact_here():
    """The closed forms of `make meters`, on this machine."""
    assert check_known_flops().status == "ok"
    assert check_known_peaks().status == "ok"


def test_a_wrong_count_or_peak_fails(monkeypatch):
    """The closed form that the meter misses is named."""
    case = known_flops.CASES[0]
    wrong = known_flops.Case(case.name, case.build, case.flops + 1)
    monkeypatch.setattr(known_flops, "CASES", (wrong,))
    assert check_known_flops().status == "failed"
    assert case.name in check_known_flops().text
    monkeypatch.setattr(quick, "WORKLOADS", ("mlp",))
    monkeypatch.setitem(known_bytes.WORKLOADS, "mlp", known_bytes.exact(known_bytes.mlp, 1))
    assert check_known_peaks().status == "failed"


@pytest.mark.parametrize(
    ("ratio", "low", "high", "floor", "status"),
    [
        (1.051, 1.045, 1.056, 0.004, "ok"),
        (1.065, 1.058, 1.072, 0.004, "ok"),  # its bound is within 1 % of 1.05
        (1.080, 1.070, 1.090, 0.004, "failed"),
        (1.000, 0.995, 1.005, 0.004, "failed"),
        (1.080, 1.070, 1.090, 0.025, "ok"),  # within the noise floor
        (1.300, 1.200, 1.400, 0.080, "warning"),  # a noisy machine proves nothing about a meter
        (1.050, None, None, 0.004, "warning"),
    ],
)
def test_a_known_ratio_fails_only_on_a_quiet_machine(ratio, low, high, floor, status):
    """The interval must come within 1 % (or the noise floor) of 1.05, unless noise is above 3 %."""
    assert judge_ratio(timing(ratio, low, high), floor).status == status


def test_the_noise_floor_is_a_warning_above_3_percent():
    """Also where it was not measured."""
    assert judge_noise(timing(1.0, 0.99, 1.01, 0.01)).status == "ok"
    assert judge_noise(timing(1.0, 0.95, 1.05, 0.05)).status == "warning"
    assert judge_noise(timing(reason="too few rounds")).status == "warning"


@pytest.mark.parametrize(("gain", "status"), [(1.0, "ok"), (1.1, "failed")])
def test_a_counter_that_its_power_contradicts_fails(gain, status):
    """A difference of 10 % is a broken sensor or meter."""
    gpu = FakeGpu(gain=gain)
    meter = EnergyMeter("fake", gpu.rig())
    finding = judge_energy("energy", meter.measure(gpu.work(0.01), 2.0), meter.facts())
    assert finding.status == status
    assert "every 100 ms, idle" in finding.text


@pytest.mark.parametrize(
    ("settings", "status", "text"),
    [
        ({}, "ok", "every 100 ms"),
        ({"mig": 1}, "no", "EnergyUnsupported: MIG"),
        ({"stuck_at_s": 1000.0}, "failed", "CounterStuck"),
        ({"resets_at_s": 1003.0}, "failed", "CounterReset"),
    ],
)
def test_a_faulty_counter_fails_and_a_missing_one_does_not(settings, status, text):
    """MIG has no energy of its own: exit code 0. A stuck counter is a broken machine: 1."""
    gpu = FakeGpu(**settings)
    finding = try_energy("energy", lambda: EnergyMeter("fake", gpu.rig()), gpu.work(0.01))
    assert finding.status == status, finding.text
    assert text in finding.text


def test_a_full_card_is_a_finding(monkeypatch):
    """No memory for the load's matrices: one line, and the examination continues."""

    def full(device):
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 32 MiB")

    monkeypatch.setattr(quick, "_products", full)
    finding = quick.check_energy(0)
    assert finding.status == "warning"
    assert finding.text == "not tested: CUDA out of memory."


def test_boards_beyond_the_budget_are_named(monkeypatch):
    """Eight boards of 8 s each would take a minute: those not tested are listed as such."""
    now = iter(range(0, 1000, 8))
    monkeypatch.setattr(quick, "time", SimpleNamespace(monotonic=lambda: next(now)))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    for name in ("check_known_flops", "check_known_peaks"):
        monkeypatch.setattr(quick, name, lambda: Finding("self-test", "x", "ok", ""))
    monkeypatch.setattr(quick, "check_known_ratio", lambda: iter(()))
    monkeypatch.setattr(quick, "check_energy", lambda k: Finding("self-test", f"{k}", "ok", ""))
    names = [finding.name for finding in quick.self_test()][2:]
    assert names == ["0", "energy of cuda:1", "energy of cuda:2"]


@pytest.mark.gpu
def test_a_gpu_is_calibrated_in_the_self_test():
    """The energy of every GPU of torch is tested, or the reason is given."""
    finding = quick.check_energy(0)
    assert finding.status in ("ok", "no"), finding.text


@pytest.mark.soak
def test_the_whole_examination_runs_as_a_command():
    """Exit code 0, and a verdict on every quantity."""
    started = time.monotonic()
    command = [sys.executable, "-m", "bench.cli", "doctor"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "this machine measures" in done.stdout
    assert "known 1.05, measured" in done.stdout
    print(f"took {time.monotonic() - started:.0f} s")
