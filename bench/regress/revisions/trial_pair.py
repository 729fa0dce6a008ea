"""One trial on both sides: its workers, started and trained; its quality with other seeds."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from bench.regress.cells import write_trial
from bench.regress.checkouts.planned_trials import Content
from bench.regress.checkouts.worktrees import Revision
from bench.regress.counts import is_fixed
from bench.regress.revisions.deadline import Deadline
from bench.regress.revisions.paired_rounds import Sides, open_both
from bench.regress.revisions.replies import PROTOCOL
from bench.regress.revisions.worker_process import WorkerProcess

Replies = tuple[dict[str, Any], dict[str, Any]]  # of baseline and candidate, to "open"
QualityPair = tuple[float | None, float | None]  # of one seed: baseline, candidate


class OtherProtocol(Exception):
    """A revision whose worker uses another protocol; the message names it."""


@dataclass(frozen=True)
class TrialPair:
    """The same trial on both sides: what is run, where, with which variables."""

    name: str  # digits/transformer/moe/seed0
    revisions: tuple[Revision, Revision]  # baseline, candidate
    contents: tuple[Content, Content]
    scratch: Path  # trial folders are made below it
    variables: Mapping[str, str] = field(default_factory=dict)  # which GPU
    deadline: Deadline = field(default_factory=Deadline)
    exact_rounds: bool = False  # as many as measure.rounds, because that was asked for

    @property
    def is_control(self) -> bool:
        """Whether both sides are one revision."""
        return self.revisions[0] == self.revisions[1]

    @property
    def has_fixed_counts(self) -> bool:
        """Whether neither training nor machine changes its counts, see `regress.counts`."""
        methods = [each.get("labels", {}).get("method", "") for each in self.contents]
        configs = [each["config"] for each in self.contents]
        return all(is_fixed(*pair, None) for pair in zip(methods, configs, strict=True))

    @property
    def measure(self) -> Mapping[str, Any]:
        """How carefully: the baseline's measure block; the candidate's is equal."""
        return dict(self.contents[0]["config"]["measure"])

    @property
    def works(self) -> list[str]:
        """The timed workloads, one per batch size: b1, b64, ..."""
        return [f"b{size}" for size in self.measure["batch_sizes"]]

    @property
    def largest(self) -> str:
        """The workload of the largest batch."""
        return f"b{max(self.measure['batch_sizes'])}"

    @property
    def on_gpu(self) -> bool:
        """Whether the trial runs on a GPU."""
        return bool(self.contents[0]["config"]["gpu"]["kind"] != "cpu")

    def with_seed(self, seed: int) -> TrialPair:
        """The same trial with another seed, and another dense model to start from."""
        first, second = (_with_seed(content, seed) for content in self.contents)
        return replace(self, contents=(first, second))

    @contextmanager
    def started(self, longest_s: float = math.inf) -> Iterator[Sides]:
        """Fresh workers on both sides, `longest_s` for a reply; they end with the context."""
        limit_s = min(float(self.contents[0]["config"]["timeout_s"]), longest_s)
        with ExitStack() as stack:
            first, second = (
                stack.enter_context(WorkerProcess(revision, self.variables, limit_s, self.deadline))
                for revision in self.revisions
            )
            yield first, second

    @contextmanager
    def opened(self) -> Iterator[tuple[Sides, Replies]]:
        """Fresh workers with the trial trained, and their replies. Raises OtherProtocol."""
        with self.started() as sides:
            replies = open_both(sides, (self.new_folder(0), self.new_folder(1)))
            for side, reply in zip(sides, replies, strict=True):
                if reply.get("protocol") != PROTOCOL:
                    raise OtherProtocol(f"{side.revision}: worker protocol {reply.get('protocol')}")
            yield sides, replies

    def new_folder(self, which: int) -> str:
        """A new folder with the trial.json of one side (0: baseline, 1: candidate)."""
        # Numbered: a rerun of the same trial must find nothing of the first run.
        number = sum(1 for _ in self.scratch.iterdir()) if self.scratch.exists() else 0
        return str(write_trial(self.scratch / f"{number}-{'ab'[which]}", self.contents[which]))


def _with_seed(content: Content, seed: int) -> Content:
    changed = copy.deepcopy(dict(content))
    changed["config"]["seed"] = changed["labels"]["seed"] = seed
    # Planned checkpoints belong to the planned seed; those of its own are trained anew.
    for name, path in changed["dense"].items():
        planned = PurePosixPath(path)
        changed["dense"][name] = str(planned.with_stem(f"{planned.stem}-seed{seed}"))
    return changed


def train_seeds(pair: TrialPair, seeds: Sequence[int]) -> list[QualityPair]:
    """Quality (baseline, candidate) of further seeds of the trial, in fresh workers."""
    found = []
    with pair.started() as sides:
        for seed in seeds:
            again = pair.with_seed(seed)
            # Both sides train at the same time: nothing is timed here.
            for which, side in enumerate(sides):
                side.send("quality", folder=again.new_folder(which))
            first, second = (side.receive()["quality"] for side in sides)
            found.append((first, second))
    return found
