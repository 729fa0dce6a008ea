"""What is said about a trial that left no record."""

from __future__ import annotations

import json
import signal
import time

import pytest

from bench.launch.postmortem import (
    TAIL_BYTES,
    Death,
    last_words,
    log_tail,
    oom_kills,
    write_failure,
)


@pytest.mark.parametrize(
    ("death", "reason"),
    [
        (
            Death(-signal.SIGKILL, "train", 2.0, oom_kills=1),
            "killed by SIGKILL in phase train after 2.0 s "
            "(out of memory: the kernel's out-of-memory killer was at work)",
        ),
        (
            Death(-signal.SIGKILL, "train", 2.0),
            "killed by SIGKILL in phase train after 2.0 s "
            "(by hand, or by the kernel for want of memory)",
        ),
        (Death(-signal.SIGSEGV, "time", 0.25), "killed by SIGSEGV in phase time after 0.2 s"),
        (Death(-62, "time", 1.0), "killed by signal 62 in phase time after 1.0 s"),
        (
            Death(7, "build", 1.0),
            "ended with exit code 7 and without a record in phase build after 1.0 s",
        ),
        (
            Death(1, "build", 1.0, error="ValueError: no"),
            "ValueError: no in phase build after 1.0 s",
        ),
        (
            Death(-signal.SIGTERM, "time", 61.0, error="SystemExit", limit_s=60.0),
            "exceeded its time limit of 60 s in phase time",
        ),
        (Death(None, "start", 0.0, error="OSError: full"), "could not be started: OSError: full"),
    ],
)
def test_reason(death, reason) -> None:
    """The reason names what ended the trial, in which phase and after how long."""
    assert death.reason() == reason


def test_log_tail(tmp_path) -> None:
    """The tail is the last lines that are not empty, each cut to a sane length, of any bytes."""
    path = tmp_path / "trial.log"
    lines = [f"line {number}" for number in range(10_000)] + ["", "x" * 1000]
    path.write_bytes("\n".join(lines).encode() + b"\n\xff\xfe\n\n")
    tail = log_tail(path)
    assert sum(len(line) for line in tail) < TAIL_BYTES
    assert tail[-3] == "line 9999"
    assert [len(line) for line in tail[-2:]] == [300, 2]
    assert log_tail(tmp_path / "none") == []


def test_last_words() -> None:
    """Of a log that ends in a stack dump the innermost call is quoted, else the last line."""
    assert last_words(["one", "two"]) == "two"
    dump = [
        "Current thread 0x1 (most recent call first):",
        '  File "a.py", line 3 in f',
        "  File b",
    ]
    assert last_words(["one", *dump]) == 'File "a.py", line 3 in f'


def test_oom_kills_are_counted(tmp_path) -> None:
    """The kernel's count of processes killed for want of memory is read; 0 where it keeps none."""
    counters = tmp_path / "vmstat"
    counters.write_text("pgfault 12\noom_kill 3\ndrop_pagecache 0\n")
    assert oom_kills(counters) == 3
    counters.write_text("pgfault 12\n")
    assert oom_kills(counters) == 0
    assert oom_kills(tmp_path / "none") == 0


def test_a_death_says_when_it_began(tmp_path) -> None:
    """Of two records of one trial the newest counts: a process that ran 100 s began 100 s ago."""
    trial = {
        "key": "k",
        "labels": {
            **dict.fromkeys(("experiment", "hardware", "task", "backbone", "method"), "x"),
            "seed": 0,
        },
        "config": {},
    }
    (tmp_path / "trial.json").write_text(json.dumps(trial))
    before_s = time.time()
    times = write_failure(tmp_path, Death(-9, "train", 100.0)).provenance
    assert before_s - 100 <= times["started_unix_s"] <= time.time() - 100
    assert times["duration_s"] == 100
