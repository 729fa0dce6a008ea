"""The state of one comparison while it runs: its device, its second tries, its verdict so far."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from bench.launch.devices import Claim, Machine
from bench.launch.turns import Choices, Turn, take_turn
from bench.regress.cells import Cell
from bench.regress.checkouts.planned_trials import Content
from bench.regress.checkouts.worktrees import Revision
from bench.regress.revisions.deadline import Deadline
from bench.regress.revisions.trial_pair import Replies, TrialPair
from bench.regress.revisions.worker_process import WorkerFailed
from bench.regress.verdict import Row, Verdict

POLL_S = 1.0
NUM_TRIES = 2  # of a measurement whose worker fails: a crash is confirmed as a slowdown is
ReportProgress = Callable[[str], None]
Result = TypeVar("Result")


class FailedTwice(Exception):
    """Both tries of one measurement ended in a failing worker; the message is the second's."""

    def __init__(self, failures: Sequence[WorkerFailed]) -> None:
        super().__init__(str(failures[-1]))
        self.revisions = [failure.revision for failure in failures]

    def by(self, revision: Revision) -> bool:
        """Whether this revision failed both times."""
        return all(each is revision for each in self.revisions)


@dataclass
class Night:
    """One comparison of two revisions while it runs."""

    old: Revision
    new: Revision
    scratch: Path
    machine: Machine
    report_progress: ReportProgress
    verdict: Verdict
    deadline: Deadline
    exact_rounds: bool = False  # as many as measure.rounds, because that was asked for
    # Per model, one entry a seed: qualities are judged after all trials, over their seeds.
    trained: dict[tuple[str, ...], list[tuple[TrialPair, Replies]]] = field(
        default_factory=lambda: defaultdict(list)
    )

    def trial_pair(
        self,
        cell: Cell,
        revisions: tuple[Revision, Revision],
        contents: tuple[Content, Content],
        variables: dict[str, str],
    ) -> TrialPair:
        """The trial of this cell in these two revisions, under the night's deadline."""
        folder = self.scratch / "trials"  # shared: TrialPair.new_folder numbers its folders
        rounds = {"exact_rounds": self.exact_rounds}
        return TrialPair(str(cell), revisions, contents, folder, variables, self.deadline, **rounds)

    @contextmanager
    def device(self, content: Content) -> Iterator[dict[str, str]]:
        """The trial's device, locked as `condbench run` locks it; the variables that select it.

        Waits while another process holds it. Raises OutOfTime.
        """
        self.deadline.check()
        gpu = content["config"]["gpu"]
        # Held over warm-up, rounds and windows: another trial in between would be in the times.
        choices = self.machine.choices(gpu["kind"], gpu["device"])
        with take_turn(self.machine.locks) as turn:
            turn.wait_for(choices)
            claim = self._claim(choices, turn)
        try:
            claim.sign("condbench compare --rev")  # the name that other processes wait for
            yield claim.variables
        finally:
            claim.release()

    def _claim(self, choices: Choices, turn: Turn) -> Claim:
        shown = None
        while (claim := self.machine.claim(choices, turn)) is None:
            wait = self.machine.wait(choices, turn)
            if wait != shown:
                self.report_progress(f"  waiting for {wait}")
            shown = wait
            self.deadline.check()
            time.sleep(POLL_S)
        return claim

    def try_twice(self, name: str, measure: Callable[[], Result]) -> Result:
        """The result of `measure`, called again where a worker fails. Raises FailedTwice."""
        failures: list[WorkerFailed] = []
        while True:
            try:
                result = measure()
            except WorkerFailed as error:
                failures.append(error)
                if len(failures) == NUM_TRIES:
                    raise FailedTwice(failures) from error
                self.report_progress("  failed; second try")
                continue
            # A crash that does not repeat is no regression, but it does not pass in silence.
            if failures:
                note = f"{name}: failed once and succeeded in the rerun: {failures[0]}"
                self.verdict.notes.append(note)
            return result

    def add_failure(self, name: str, metric: str, error: FailedTwice) -> None:
        """Enter a failure: regressed if it is the candidate's, not comparable if the baseline's."""
        if error.by(self.old):
            self.verdict.differences.append(f"{name}: a trial of the baseline fails: {error}")
        elif error.by(self.new):
            self.verdict.rows.append(Row(name, metric, "regressed", reason=f"fails: {error}"))
        else:
            reason = f"each revision failed once: {error}"
            self.verdict.rows.append(Row(name, metric, "inconclusive", reason=reason))
