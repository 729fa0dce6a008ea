"""The failed record that the launcher writes for a trial without one."""

from __future__ import annotations

import json
import signal
import time

import pytest

from bench.launch.failures import (
    TAIL_BYTES,
    ProcessExit,
    count_oom_kills,
    log_tail,
    select_line,
    write_failure,
)


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        (
            ProcessExit(-signal.SIGKILL, "train", 2.0, oom_kills=1),
            "killed by SIGKILL in phase train after 2.0 s "
            "(out of memory: the kernel's OOM killer was active)",
        ),
        (
            ProcessExit(-signal.SIGKILL, "train", 2.0),
            "killed by SIGKILL in phase train after 2.0 s "
            "(manually, or by the kernel's OOM killer)",
        ),
        (ProcessExit(-signal.SIGSEGV, "time", 0.25), "killed by SIGSEGV in phase time after 0.2 s"),
        (ProcessExit(-62, "time", 1.0), "killed by signal 62 in phase time after 1.0 s"),
        (
            ProcessExit(7, "build", 1.0),
            "exited with code 7 without a record in phase build after 1.0 s",
        ),
        (
            ProcessExit(1, "build", 1.0, error="ValueError: no"),
            "ValueError: no in phase build after 1.0 s",
        ),
        (
            ProcessExit(-signal.SIGTERM, "time", 61.0, error="SystemExit", limit_s=60.0),
            "exceeded its time limit of 60 s in phase time",
        ),
        (
            ProcessExit(None, "start", 0.0, error="OSError: full"),
            "could not be started: OSError: full",
        ),
    ],
)
def test_reason(end, reason) -> None:
    """The reason names what ended the trial, in which phase and after how long."""
    assert end.reason() == reason


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


def test_the_selected_line() -> None:
    """Of a log that ends in a stack dump the innermost call is quoted, else the last line."""
    assert select_line(["one", "two"]) == "two"
    dump = [
        "Current thread 0x1 (most recent call first):",
        '  File "a.py", line 3 in f',
        "  File b",
    ]
    assert select_line(["one", *dump]) == 'File "a.py", line 3 in f'


def test_oom_kills_are_counted(tmp_path) -> None:
    """The kernel's counter of OOM kills is read; 0 where there is none."""
    counters = tmp_path / "vmstat"
    counters.write_text("pgfault 12\noom_kill 3\ndrop_pagecache 0\n")
    assert count_oom_kills(counters) == 3
    counters.write_text("pgfault 12\n")
    assert count_oom_kills(counters) == 0
    assert count_oom_kills(tmp_path / "none") == 0


def test_a_failure_records_its_start(tmp_path) -> None:
    """The newest record of a trial counts: a process that ran 100 s started 100 s ago."""
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
    times = write_failure(tmp_path, ProcessExit(-9, "train", 100.0)).provenance
    assert before_s - 100 <= times["started_unix_s"] <= time.time() - 100
    assert times["duration_s"] == 100
