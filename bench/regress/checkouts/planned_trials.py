"""The trials that a revision plans, by cell: planned in its worktree, checked when they arrive.

The other revision's code may be older or newer, and may leave a field out. That ends in one
sentence with the revision's name, before anything is measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from bench.records.files import parse_json
from bench.records.record import Labels
from bench.records.validation import Identity, first_error
from bench.regress.cells import Cell
from bench.regress.checkouts.commands import Limits, Unbounded, run_command
from bench.regress.checkouts.worktrees import Revision
from bench.regress.verdict import BadInput

Content = Mapping[str, Any]  # a trial.json
# Ten thousand trials are 50 MB; the end of stderr enters a message.
LIMITS = Limits(max_bytes=64 * 2**20, max_errors=800, timeout_s=600.0)


class _Part(BaseModel):
    model_config = ConfigDict(allow_inf_nan=False)


class _Measure(_Part):
    rounds: int = Field(ge=1)
    batch_sizes: list[int]
    block_ms: float = Field(gt=0)
    energy_window_s: float = Field(gt=0)


class _Gpu(_Part):
    kind: str
    device: str | None


class _Settings(_Part):
    seed: int
    timeout_s: float = Field(gt=0)
    measure: _Measure
    gpu: _Gpu


class _Dense(_Part):
    checkpoint: str


class PlannedTrial(_Part):
    """A trial.json, as far as a night reads it; the rest is passed on unread."""

    labels: Labels
    config: _Settings
    identity: Identity
    dense: _Dense


def plan_trials(revision: Revision, overrides: Sequence[str], scratch: Path) -> dict[Cell, Content]:
    """The trials that a revision plans, results below `scratch`.

    Raises BadInput where it cannot plan, plans nothing, or prints an invalid plan.
    """
    # A results folder per revision: dense checkpoints of the two must not be shared.
    results = scratch / f"results-{revision.folder.name}"
    arguments = [*overrides, f"results={results}", "wandb.mode=disabled"]
    command = [revision.python, "-m", revision.interface.planning, *arguments]
    try:
        run = run_command(command, revision.folder, revision.environment, LIMITS)
    except Unbounded as error:
        raise BadInput(f"{revision}: the planner {error}; compare fewer trials") from error
    # Bad overrides and broken plugins end here, with the planner's own sentence.
    if run.exit_code:
        raise BadInput(f"{revision} cannot plan {' '.join(overrides)}: {run.errors}")
    try:
        plan = parse_json(run.output)
        trials, left_out = plan["trials"], plan["left_out"]
    except (ValueError, KeyError, TypeError) as error:
        raise BadInput(
            f"{revision}: the planner returned an invalid plan: {run.output[:200]!r}"
        ) from error
    # Trials that are left out (a plugin that cannot be loaded) would be missing on one side.
    if left_out or not trials:
        raise BadInput(f"{revision}: {left_out[0] if left_out else 'the plan has no trial'}")
    return _by_cell(revision, trials)


def _by_cell(revision: Revision, trials: Sequence[Content]) -> dict[Cell, Content]:
    """The trials by cell. Raises BadInput for an invalid trial, and for two of one cell."""
    plan: dict[Cell, Content] = {}
    for content in trials:
        if wrong := first_error(PlannedTrial, content):
            raise BadInput(f"{revision}: the planner returned an invalid trial: {wrong}")
        cell = Cell(*(content["labels"][name] for name in Cell._fields))
        # Cells pair the two revisions' trials: with two of one name the pairing is ambiguous.
        if cell in plan:
            raise BadInput(f"{revision} plans {cell} more than once under the same name")
        plan[cell] = content
    return plan


def hardware_of(plan: Mapping[Cell, Content]) -> str:
    """The hardware class that the trials of a plan name."""
    return str(next(iter(plan.values()))["labels"]["hardware"])
