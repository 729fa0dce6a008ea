"""What a revision prints is read up to a bound: planner, installer, worker, on both channels."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from bench.regress.checkouts import planned_trials
from bench.regress.checkouts.commands import Ended, Limits, Unbounded, run_command
from bench.regress.verdict import BadInput


def run(program: str, timeout_s: float = 60.0) -> Ended:
    command = [sys.executable, "-c", f"import os, sys, time\n{program}"]
    return run_command(command, Path(), {"MARK": "1"}, Limits(1000, 10, timeout_s))


def test_what_a_command_printed_and_how_it_ended() -> None:
    """All of its output, the end of its messages, its exit code, its own variables."""
    ended = run("print(os.environ['MARK']); sys.stderr.write('a' * 500_000 + 'the end'); exit(3)")
    assert ended == (3, "1\n", "aaathe end")


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("while True: print('x')", "printed more than 1,000 bytes"),
        ("print('x' * 1001)", "printed more than 1,000 bytes"),
        ("time.sleep(600)", "did not end within 0.2 s"),
        ("while True: sys.stderr.write('x')", "did not end within 0.2 s"),
        ("sys.stdout.close(); os.close(1); os.close(2); time.sleep(600)", "did not end"),
        # A process that it left keeps the pipe open.
        ("os.fork() or time.sleep(9)", "did not end within 0.2 s"),
    ],
)
def test_a_command_without_end_is_ended(program, words) -> None:
    """Whatever it does without end."""
    with pytest.raises(Unbounded, match=words):
        run(program, timeout_s=60.0 if "bytes" in words else 0.2)


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        ({"plan_flood": "stdout"}, "the planner printed more than 10,000 bytes; compare fewer"),
        ({"plan_flood": "stderr"}, "the planner did not end within 2 s; compare fewer trials"),
        ({"plan_sleep_s": 60}, "the planner did not end within 2 s; compare fewer trials"),
    ],
)
def test_a_planner_without_end_is_bad_input(compared, monkeypatch, plan, words) -> None:
    """A flood on either channel, and a wait: one sentence with the revision's name."""
    monkeypatch.setattr(planned_trials, "LIMITS", Limits(10_000, 800, 2.0))
    with pytest.raises(BadInput, match=words):
        compared(old=plan)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"flood": "x"}, "a reply of more than 262,144 bytes to 'open'"),
        ({"flood": "x\n"}, "more than one reply to 'open'"),
        ({"reply": '{"ok": {}}\n{"ok": {}}'}, "more than one reply to 'open'"),
        ({"reply": '{"error": "%s"}' % ("x" * 300_000)}, "a reply of more than 262,144 bytes"),
        ({"reply": '{"error": "%s"}' % ("x" * 200_000)}, "196,000 characters cut"),
    ],
)  # fmt: skip
def test_a_reply_without_end_is_named(compared, change, words) -> None:
    """Without a line's end, with more lines than requests, as one huge message: one failure."""
    verdict = compared({"methods": ["moe"]}, methods=["moe"], **change)
    (row,) = verdict.rows
    assert (row.judgement, verdict.exit_code) == ("regressed", 1)
    assert words in row.reason
    assert len(row.reason) < 6000


def test_only_the_end_of_a_workers_messages_is_read(compared) -> None:
    """A worker that printed 80 MB before it died: its last 800 bytes."""
    verdict = compared({"methods": ["moe"]}, methods=["moe"], chatter="x" * 8000, crash=True)
    assert "toy crashed" in verdict.rows[0].reason
    assert len(verdict.rows[0].reason) < 1000
