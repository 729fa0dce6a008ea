"""The known-answer program: its workloads' closed forms hold here, its limits can be missed."""

from __future__ import annotations

import subprocess

import pytest

from bench.meters import known_bytes, known_flops, known_ratios
from bench.meters.known_ratios import Sessions
from bench.meters.memory import peak_tensor_bytes


@pytest.mark.parametrize("name", ["big", "train"])
def test_the_memory_workloads_meet_their_closed_forms(name):
    """First and second run in one process, exact but for the operators' stated scratch."""
    work, expected, slack = known_bytes.WORKLOADS[name]
    first, second = peak_tensor_bytes(work), peak_tensor_bytes(work)
    assert first == second
    assert expected <= first <= expected + slack


def test_every_flop_case_is_exact_with_us():
    """All eight closed forms, without a flag, and at least five that FlopCounterMode misses."""
    rows, failed = known_flops.rows_and_failures()
    assert failed == []
    assert [row[2] for row in rows] == ["1.000"] * 8
    assert sum(row[3] != "1.000" for row in rows) >= 5


def sessions(truth, ratios, num_covered=20, num_different=0):
    return Sessions(truth, "ours", ratios, num_covered, num_different)


def test_good_sessions_miss_no_limit():
    """20 sessions within half a per cent."""
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
    """Every acceptance limit names itself when it is broken, and alone."""
    (failure,) = known_ratios.failures(bad, load)
    assert words in failure


def test_the_busy_core_ends_with_its_context(monkeypatch):
    """The process that keeps the core busy lives inside the block and is gone afterwards."""
    started = []
    real = subprocess.Popen

    def noting(*arguments, **keywords):
        started.append(real(*arguments, **keywords))
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", noting)
    with known_ratios.busy_core():
        assert started[0].poll() is None
    assert started[0].poll() is not None


def test_a_row_shows_errors_in_per_cent():
    """Median error 0, worst 1 %, coverage and A/A column; other tools have neither."""
    row = sessions(1.0, [0.99, 1.0, 1.01], num_covered=3).row()
    assert row[:3] == ["1.00", "ours", "+0.00 %"]
    assert row[4:] == ["1.00 %", "100%", "0"]
    other = Sessions(1.05, "torch.utils.benchmark", [1.0, 1.1]).row()
    assert other[-2:] == ["-", "-"]
