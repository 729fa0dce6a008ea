"""A machine that cannot time is recognised before anything is trained; counts are compared."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bench.regress.revisions import machine_noise
from bench.regress.revisions.replies import reply_error
from bench.regress.revisions.worker import Worker

NOISY = {"canary_spread": 0.9}


def test_a_hopeless_machine_is_recognised_before_training(compared, toy) -> None:
    """The canary alone voids the night: no trial is trained for a control, none is timed."""
    verdict = compared(old=NOISY, **NOISY)
    (control,) = verdict.controls
    assert control.name == "this machine A/A control, time canary before training"
    assert (control.judgement, control.ratio.num_values) == ("inconclusive", 20)
    assert "end other programs, lower gpu.threads, or take another machine" in control.reason
    assert not any(line.startswith("A/A control") for line in toy.progress)
    assert [row.metric for row in verdict.rows] == ["quality"] * 2
    assert (verdict.outcome, verdict.exit_code) == ("void", 3)


def test_counts_need_no_such_machine(compared) -> None:
    """Twice the FLOPs of dense are regressed there too, exit code 1."""
    verdict = compared(old=NOISY, flops=2000, **NOISY)
    (found,) = [row for row in verdict.rows if row.metric == "executed FLOPs"]
    assert (found.judgement, found.reason) == ("regressed", "1,000 -> 2,000")
    assert verdict.exit_code == 1


def test_one_burst_is_not_hopeless(toy, monkeypatch) -> None:
    """Noise that has ended in the second series costs nothing."""
    series = iter([[-1.0, 1.0] * 10, [0.001, -0.001] * 10])
    monkeypatch.setattr(machine_noise, "_series", lambda rounds: next(series))
    revision = toy.commit()
    assert toy.night(revision, revision).outcome == "ok"
    assert next(series, None) is None


def test_slow_rounds_are_fewer(monkeypatch) -> None:
    """Rounds of 3 s: six, the fewest that give an interval, instead of a minute of twenty."""
    now_s = 0.0

    class Rounds:
        def measure(self, number: int) -> list[float]:
            nonlocal now_s
            now_s += 3.0 * number
            return [0.0] * number

    monkeypatch.setattr(machine_noise.time, "monotonic", lambda: now_s)
    # 6 rounds take 18 s, more than the 12 s of a series
    assert len(machine_noise._series(Rounds())) == 6


@pytest.mark.parametrize("wrong", [{"num_threads": 0}, {}])
def test_a_revision_that_cannot_be_tried_is_compared_all_the_same(compared, toy, wrong) -> None:
    """An older worker has no such request: said, and the control comes with the first trial."""
    verdict = compared(old={"wrong": {"canary": wrong}})
    assert any("not tried" in line for line in toy.progress)
    assert verdict.outcome == "ok"


def test_a_worker_times_the_canary_without_a_trial() -> None:
    """The request of the protocol, by the worker itself: ready, warm, a block."""
    before, worker = torch.get_num_threads(), Worker()
    try:
        ready = worker.canary("cpu", 1, 0.01)
        warm = worker.warm("canary")
        block = worker.block("canary", 2)
    finally:
        worker.held.close()
    assert (ready, torch.get_num_threads()) == ({"num_threads": 1}, before)
    replies: dict[str, dict[str, Any]] = {"canary": ready, "warm": warm, "block": block}
    assert [reply_error(name, reply) for name, reply in replies.items()] == [None] * 3
