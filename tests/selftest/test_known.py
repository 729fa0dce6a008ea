"""Known cases: the closed forms of the workloads hold here, and each limit can be missed."""

from __future__ import annotations

import subprocess
from dataclasses import replace

import pytest

from bench.meters.memory.tensors import measure_peak_bytes
from bench.selftest import known_bytes, known_flops, known_ratios
from bench.selftest.known_bytes import Readings
from bench.selftest.known_ratios import Sessions


@pytest.mark.parametrize("name", ["big", "train"])
def test_the_memory_workloads_meet_their_closed_forms(name):
    """First and second run in one process, exact except for the operators' declared scratch."""
    work = known_bytes.WORKLOADS[name]
    first, second = measure_peak_bytes(work.run), measure_peak_bytes(work.run)
    assert first == second
    assert work.accepts(first)


MIB = 2**20
BIG = Readings([320 * MIB, 0], 320 * MIB, 320 * MIB, 321 * MIB, 320 * MIB)
CONV = Readings([0, 0], 96 * MIB + 2**17, 96 * MIB + 2**17, 100 * MIB, 97 * MIB)


def test_good_readings_of_memory_meet_every_limit():
    """To the byte, and resident within 8 MiB of memray's peak; a convolution has its workspace."""
    assert list(known_bytes.failures("big", BIG, BIG)) == []
    assert list(known_bytes.failures("convolution", CONV, CONV)) == []
    without = replace(BIG, memray=None)
    assert list(known_bytes.failures("big", without, without)) == []


@pytest.mark.parametrize(
    ("name", "good", "change", "words"),
    [
        ("big", BIG, {"second": 1}, "and 1 bytes, allowed"),
        ("big", BIG, {"first": 320 * MIB + 1, "second": 320 * MIB + 1}, "bytes, allowed"),
        # 64 MiB of tensors without the workspace of 32 MiB: the meter missed memory
        ("convolution", CONV, {"first": 65 * MIB, "second": 65 * MIB}, "bytes, allowed"),
        ("big", BIG, {"resident": 316 * MIB}, "memray's peak is"),
        ("big", BIG, {"resident": 329 * MIB}, "memray's peak is"),
    ],
)
def test_each_limit_of_memory_can_be_missed(name, good, change, words):
    """A reading that differs between runs, from the closed form, or from memray's."""
    bad = replace(good, **change)
    (failure,) = known_bytes.failures(name, bad, bad)
    assert words in failure


def test_the_order_of_workloads_may_change_readings_by_one_percent():
    """A peak that leaks from one workload into the next differs between the two orders."""
    later = replace(BIG, resident=326 * MIB)
    (failure,) = known_bytes.failures("big", BIG, later)
    assert "by order" in failure
    assert list(known_bytes.failures("big", BIG, replace(BIG, resident=323 * MIB))) == []


def test_resident_memory_of_training_has_no_limit():
    """Its first step imports modules: 77 MiB that memray does not attribute to the workload."""
    train = Readings([0, 0], 192 * MIB, 192 * MIB, 269 * MIB, 192 * MIB)
    assert list(known_bytes.failures("train", train, train)) == []


def test_every_flop_case_is_exact_in_our_meter():
    """All ten closed forms, none flagged, and at least five that FlopCounterMode misses."""
    rows, failed = known_flops.rows_and_failures()
    assert failed == []
    assert [row[2] for row in rows] == ["1.000"] * 10
    assert sum(row[3] != "1.000" for row in rows) >= 5


def sessions(truth, ratios, num_covered=20, num_different=0):
    return Sessions(truth, "ours", ratios, num_covered, num_different)


def test_good_sessions_meet_every_limit():
    """20 sessions within half a percent."""
    good = sessions(1.05, [1.05 + 0.0025 * (-1) ** i for i in range(20)])
    assert known_ratios.failures(good, known_ratios.QUIET) == []


@pytest.mark.parametrize(
    ("bad", "load", "words"),
    [
        (sessions(1.05, [1.065, 1.066] * 10), known_ratios.QUIET, "median error"),
        (sessions(1.05, [1.075, 1.076] * 10), known_ratios.BUSY, "median error"),
        (sessions(1.05, [1.03, 1.05, 1.07] * 7), known_ratios.QUIET, "spread"),
        (sessions(1.05, [1.05, 1.051] * 10, 16), known_ratios.QUIET, "16 of 20 intervals"),
        (sessions(1.0, [1.0, 1.001] * 10, 20, 2), known_ratios.BUSY, "2 of 20 A/A"),
    ],
)
def test_each_limit_can_be_missed(bad, load, words):
    """A missed acceptance limit is reported, and no other."""
    (failure,) = known_ratios.failures(bad, load)
    assert words in failure


def test_the_busy_core_ends_with_its_context(monkeypatch):
    """The process that keeps the core busy runs inside the block and has ended afterwards."""
    started = []
    real = subprocess.Popen

    def recorded(*arguments, **keywords):
        started.append(real(*arguments, **keywords))
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", recorded)
    with known_ratios.busy_core():
        assert started[0].poll() is None
    assert started[0].poll() is not None


def test_a_row_shows_errors_in_percent():
    """Median error 0, worst 1 %, coverage and A/A column, which other tools do not have."""
    row = sessions(1.0, [0.99, 1.0, 1.01], num_covered=3).row()
    assert row[:3] == ["1.00", "ours", "+0.00 %"]
    assert row[4:] == ["1.00 %", "100%", "0"]
    other = Sessions(1.05, "torch.utils.benchmark", [1.0, 1.1]).row()
    assert other[-2:] == ["-", "-"]
