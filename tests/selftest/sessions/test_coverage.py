"""Coverage across sessions: what is judged, on sessions that are worked out by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from bench.selftest.sessions import coverage
from bench.selftest.sessions.__main__ import main
from bench.selftest.sessions.coverage import CellCoverage, Reading, coverage_of, readings_of
from bench.selftest.sessions.timing import next_number, session_path


def reading(ratio: float, low: float, high: float) -> Reading:
    """A reading of three processes that differ by 3 %."""
    return Reading(ratio, low, high, 0.03, 3)


def cell(*readings: Reading, name: str = "moe", size: int = 64) -> CellCoverage:
    """What sessions found of one cell."""
    return CellCoverage((name, size), readings)


def session(reason: str | None = None, **logs: list[float]) -> dict:
    """A session of batch size 64; `logs`: each method's log ratio per process."""
    return {
        "training": "seed0",
        "started_unix_s": 0.0,
        "processes": 3,
        "rounds": 2,
        "environment": {"cpu_model": "Test", "num_cores": 2, "versions": {"torch": "2.13.0"}},
        "cells": {
            name: {"64": {"process_log_ratios": found, "noise_floor": 0.01, "reason": reason}}
            for name, found in logs.items()
        },
    }


def test_an_interval_is_held_against_the_median_of_the_other_sessions() -> None:
    """Ratios 1.0, 1.1, 1.2, 2.0: the others' medians of logs.

    Of 1.0: 1.2. Of 1.1: 1.2. Of 1.2: 1.1. Of 2.0: 1.1.
    """
    found = cell(
        reading(1.0, 0.9, 1.19),  # ends below 1.2
        reading(1.1, 1.0, 1.21),
        reading(1.2, 1.1 - 1e-9, 1.3),
        reading(2.0, 1.11, 3.0),  # begins above 1.1
    )
    assert found.held == [False, True, True, False]
    assert coverage.share_held([found]) == 0.5


def test_a_session_is_not_its_own_witness() -> None:
    """With itself among them the median of 1.0, 1.2, 1.4 is 1.2; without it 1.183 = sqrt(1.4)."""
    found = cell(reading(1.0, 0.9, 1.1), reading(1.2, 1.19, 1.21), reading(1.4, 1.05, 1.5))
    # Of 1.2 the others are 1.0 and 1.4: exp of the mean of their logs, 1.1832, below 1.19.
    # Of 1.4: sqrt(1.2) = 1.095; of 1.0: sqrt(1.2 x 1.4) = 1.296.
    assert found.held == [False, False, True]


def test_answers_are_opposed_where_both_are_significant() -> None:
    """1.10 [1.06, 1.13] beside 0.911 [0.855, 0.981], the case that began this."""
    above, below = reading(1.10, 1.06, 1.13), reading(0.911, 0.855, 0.981)
    unclear = reading(0.97, 0.9, 1.04)
    assert cell(above, below, unclear).is_opposed
    assert not cell(above, unclear, unclear).is_opposed
    assert not cell(below, unclear, reading(1.0, 0.99, 1.0)).is_opposed


def test_intervals_are_those_of_a_table() -> None:
    """Two methods pool the spread of their processes: variances 0.01 and 0.03, 2 + 2 degrees.

    Pooled 0.02 / 3 with 4 degrees, between sessions 0.031^2 with 11: 0.0076277 with
    0.0076277^2 / (0.0066667^2 / 4 + 0.000961^2 / 11) = 5.197 of them, t = 2.541542.
    half = t x sqrt(0.0076277) = 0.221969.
    """
    found = readings_of(session(moe=[-0.1, 0.0, 0.1], topk=[0.5 - 0.03**0.5, 0.5, 0.5 + 0.03**0.5]))
    moe, topk = found["moe", 64], found["topk", 64]
    assert moe.ratio == pytest.approx(1.0)
    assert math.log(moe.high) == pytest.approx(0.221969, abs=1e-6)
    assert math.log(topk.low) == pytest.approx(0.5 - 0.221969, abs=1e-6)
    assert moe.sd == topk.sd == pytest.approx(0.02**0.5)
    assert moe.num_processes == 3


def test_a_ratio_that_no_table_shows_is_no_reading() -> None:
    """Withheld: times never settled; its spread is not pooled either."""
    both = session(moe=[-0.1, 0.0, 0.1])
    both["cells"] |= session("times never settled in the warm-up", topk=[5.0, 0.0, 9.0])["cells"]
    found = readings_of(both)
    assert set(found) == {("moe", 64)}
    assert found["moe", 64].sd == pytest.approx(0.1)


def test_what_sessions_add_to_processes_is_seen_in_two_columns() -> None:
    """Means 0, 0.2, 0.4 scatter by 0.2; processes of sd 0.1 make 0.1 / sqrt(3) = 0.0577 of that."""
    logs = [[mean - 0.1, mean, mean + 0.1] for mean in (0.0, 0.2, 0.4)]
    (found,) = coverage_of(session(moe=each) for each in logs)
    assert found.session_sd == pytest.approx(0.2)
    assert found.expected_sd == pytest.approx(0.1 / 3**0.5)
    assert coverage.between_sessions([found]) == pytest.approx((0.04 - 0.01 / 3) ** 0.5)
    (row,) = coverage.rows([found])
    assert row[:4] == ["moe", "64", "1.221", "1.000 to 1.492"]
    assert row[6:] == ["20.0%", "5.8%", "no"]
    assert len(row) == len(coverage.HEADERS)


def test_limits() -> None:
    """90 % must hold, and one cell may be opposed; a second one is named."""
    good = cell(*[reading(1.0, 0.9, 1.1)] * 9)
    # The others of the outlier are all 1.0: nine of ten hold, which is just enough.
    nine = cell(*good.readings, reading(1.5, 1.4, 1.6))
    assert sum(nine.held) == 9
    assert coverage.failures([nine]) == []
    # Of two outliers among eleven: nine of eleven.
    worse = cell(*nine.readings, reading(1.5, 1.4, 1.6))
    assert coverage.failures([worse]) == ["82% of the intervals hold, 90% are required"]
    split = [reading(1.01, 1.005, 1.02), reading(0.99, 0.98, 0.995)]
    one, two = cell(*split, *good.readings * 4), cell(*split, *good.readings * 4, name="topk")
    assert coverage.failures([one]) == []
    assert coverage.failures([one, two]) == [
        "significant opposite answers for moe at batch 64, topk at batch 64"
    ]


def test_training_again_is_compared_by_medians() -> None:
    """1.0 in the first training, exp(0.1) in the second: 10.5 % more, in cells that both have."""
    first = coverage_of([session(moe=[-0.01, 0.0, 0.01])] * 3)
    again = [session(moe=[0.09, 0.1, 0.11], topk=[0.0, 0.1, 0.2])]
    assert coverage.retraining_rows(first, again) == [["moe", "64", "1.000", "1.105", "+10.5%"]]


def test_too_few_sessions_are_an_error() -> None:
    """Of two sessions each is held against one other."""
    with pytest.raises(ValueError, match="moe at batch 64: 2 sessions are not enough, 3"):
        coverage_of([session(moe=[-0.01, 0.0, 0.01])] * 2)
    with pytest.raises(ValueError, match="no session yet"):
        coverage_of([])


def write(folder: Path, seed: int, sessions: list[dict]) -> None:
    """`sessions` as files of a training."""
    for number, content in enumerate(sessions):
        path = session_path(folder, seed, number)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))


def test_judging_reads_the_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Three equal sessions: all hold, exit code 0. One far away: none does, exit code 1.

    Of 0, 0, 0.5 the others' medians are 0.25, 0.25 and 0.
    """
    same = session(moe=[-0.01, 0.0, 0.01])
    write(tmp_path, 0, [same] * 3)
    assert next_number(tmp_path, 0) == 3
    assert next_number(tmp_path, 1) == 0
    assert main(["judge", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "100.0% of 3 intervals hold; 0 were withheld." in text
    assert "Sessions differ by 0.0% beyond their processes; the intervals use 3.1%." in text
    assert "Every acceptance limit is met." in text
    assert "training again" not in text
    write(tmp_path, 1, [session(moe=[0.09, 0.1, 0.11])])
    write(tmp_path, 0, [same, same, session(moe=[0.49, 0.5, 0.51])])
    assert main(["judge", str(tmp_path)]) == 1
    text = capsys.readouterr().out
    assert "LIMIT MISSED  0% of the intervals hold" in text
    assert "What training again changes" in text


def test_a_folder_without_what_a_step_needs_is_bad_usage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2 with one sentence: no sessions to judge, no models to time."""
    assert main(["judge", str(tmp_path)]) == 2
    assert main(["time", str(tmp_path)]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert "no session yet: 3 are needed" in errors[0]
    assert "early_exit.pickle" in errors[1]
