"""The night's limit: every wait stops at it, what was judged stays, the rest has its reason."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from bench.regress import nightly
from bench.regress.checkouts.worktrees import checked_out
from bench.regress.revisions import compare, trial_pair
from bench.regress.revisions.deadline import Deadline, OutOfTime
from bench.regress.revisions.metrics import measure_pair
from bench.regress.revisions.trial_pair import TrialPair
from bench.regress.revisions.worker_process import WorkerProcess
from bench.regress.verdict import Verdict

USED_UP = "the night's 20 min are used up"
LIMITS_S = {"cpu": 20 * 60.0}


@pytest.fixture
def ends_when(toy, monkeypatch) -> Callable[[str], Verdict]:
    """ends_when(start): the night whose time is up once a line with that start was reported."""

    def night(start: str, **changes: Any) -> Verdict:
        def left_s(self: Deadline) -> float:
            return 0.0 if any(line.startswith(start) for line in toy.progress) else 1000.0

        monkeypatch.setattr(Deadline, "left_s", property(left_s))
        return toy.night(toy.commit(), toy.commit(**changes), limits_s=LIMITS_S)

    return night


def test_what_was_judged_in_time_stays(ends_when, toy) -> None:
    """The first of two trials is judged; the second is inconclusive with the reason, exit code 3,
    and no worker is started for it."""
    verdict = ends_when("[2/2]")
    names = {row.metric: (row.judgement, row.reason) for row in verdict.rows}
    assert names["time b64"] == ("equal", None)
    assert names["trial"] == ("inconclusive", USED_UP)
    assert (verdict.outcome, verdict.exit_code) == ("inconclusive", 3)
    assert any(note.startswith("took ") and "of at most 20" in note for note in verdict.notes)
    assert any(line.startswith("[2/2] ") and "min of at most 20)" in line for line in toy.progress)


def test_a_regression_before_the_end_is_red(ends_when) -> None:
    """What was found and confirmed in time is exit code 1, whatever was not measured."""
    assert ends_when("[2/2]", pass_s=0.11).exit_code == 1


def test_no_time_for_the_control_is_void(ends_when) -> None:
    """Without its A/A arm a night concludes nothing."""
    verdict = ends_when("A/A control")
    assert (verdict.outcome, verdict.exit_code) == ("void", 3)
    assert verdict.controls[0].reason == USED_UP


def test_no_time_for_more_seeds_is_inconclusive(ends_when) -> None:
    """A quality that differs, without time for further seeds, is neither green nor red."""
    verdict = ends_when("digits/transformer/dense: quality differs", quality=70.0)
    quality = [row for row in verdict.rows if row.metric == "quality"]
    assert [row.judgement for row in quality] == ["inconclusive"] * 2
    assert quality[0].reason == f"differs; {USED_UP}"
    assert verdict.exit_code == 3


def test_a_worker_that_is_still_busy_is_ended(toy) -> None:
    """A reply that takes a minute is not awaited where the night ends after half a second."""
    toy.commit(sleep_s=60)
    with (
        checked_out(toy.folder, ["HEAD"], toy.locks) as (revision,),
        pytest.raises(OutOfTime),
        WorkerProcess(revision, {}, 300.0, Deadline(0.5)) as worker,
    ):
        worker.call("open", folder="")
    assert worker.process.returncode is not None


class Side:
    """A worker in this process: its passes take `pass_s`, and time is up after `num_blocks`."""

    num_blocks = 0

    def __init__(self, pass_s: float, *_: object) -> None:
        self.revision, self.pass_s = pass_s, pass_s
        self._use_blocks(0)

    def __enter__(self) -> Side:
        return self

    def __exit__(self, *error: object) -> None: ...

    def _use_blocks(self, num_blocks: int) -> None:
        Side.num_blocks -= num_blocks
        if Side.num_blocks <= 0:
            raise OutOfTime(USED_UP)

    def call(self, request: str, **details: Any) -> dict[str, Any]:
        if request == "block":
            self._use_blocks(1)
        return {"pass_s": 1.0, "steady": True, "seconds": self.pass_s * details.get("passes", 1)}

    def send(self, request: str, **details: Any) -> None: ...

    def receive(self) -> dict[str, Any]:
        return {"protocol": 1, "counts": {}}


@pytest.mark.parametrize(
    ("num_blocks", "candidate_s", "expected"),
    [
        # 20 rounds of 4 blocks for each of b1 and b64 are 160 blocks; the last one left ends it
        (161, 1.0, [("equal", None), ("equal", None)]),
        (160, 1.0, [("equal", None), ("inconclusive", USED_UP)]),
        (40, 1.0, [("inconclusive", USED_UP)] * 2),
        # 8 % slower: both are suspected after 160 blocks, b1's rerun takes 80 more
        (400, 1.08, [("regressed", None), ("regressed", None)]),
        (300, 1.08, [("regressed", None), ("inconclusive", f"rerun: {USED_UP}")]),
        (161, 1.08, [("inconclusive", f"rerun: {USED_UP}")] * 2),
    ],
)
def test_time_can_end_anywhere_in_a_trial(
    num_blocks, candidate_s, expected, tmp_path, monkeypatch
) -> None:
    """Rows before the end are judged; one in the middle, or whose rerun is missing, is not."""
    monkeypatch.setattr(Side, "num_blocks", num_blocks)
    monkeypatch.setattr(trial_pair, "WorkerProcess", Side)
    measure = {"rounds": 20, "batch_sizes": [1, 64], "block_ms": 1.0}
    content = {"config": {"measure": measure, "gpu": {"kind": "cpu"}, "timeout_s": 1.0}}
    pair = TrialPair("t", (1.0, candidate_s), (content, content), tmp_path)
    rows = measure_pair(pair).rows
    assert [(row.judgement, row.reason) for row in rows] == expected


def test_a_night_of_the_command_has_a_limit(monkeypatch, tmp_path) -> None:
    """20 minutes on a CPU and 30 on a GPU, as experiment=nightly promises."""
    limits: list[Any] = []

    def compare_revisions(*sides: Any, **details: Any) -> Verdict:
        limits.append(details["limits_s"])
        return Verdict("A", "B", "cpu")

    monkeypatch.setattr(compare, "compare_revisions", compare_revisions)
    assert nightly.nightly([f"history={tmp_path}", f"out={tmp_path}"], simulate=False) == 3
    assert limits == [{"cpu": 1200, "one": 1800, "ddp": 1800}]
