"""What a revision plans, asked of itself: its trials by what they measure."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.regress.revisions.answers import plan_damage
from bench.regress.revisions.turns import Content
from bench.regress.revisions.worktrees import Revision
from bench.regress.sides import BadInput, Cell

PLANNING = "bench.regress.revisions.planning"


def planned(revision: Revision, overrides: Sequence[str], scratch: Path) -> dict[Cell, Content]:
    """The trials that a revision plans, results below `scratch`. Raises BadInput."""
    results = scratch / f"results-{revision.folder.name}"
    arguments = [*overrides, f"results={results}", "wandb.mode=disabled"]
    command = [revision.python, "-m", PLANNING, *arguments]
    run = subprocess.run(
        command, capture_output=True, text=True, cwd=revision.folder, env=revision.environment
    )
    if run.returncode:
        raise BadInput(f"{revision} cannot plan {' '.join(overrides)}: {run.stderr.strip()[-800:]}")
    try:
        told = json.loads(run.stdout)
        trials, left_out = told["trials"], told["left_out"]
    except (ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{revision} plans what is no plan: {run.stdout[:200]!r}") from error
    if left_out or not trials:
        raise BadInput(f"{revision}: {left_out[0] if left_out else 'plans no trial'}")
    return _by_cell(revision, trials)


def _by_cell(revision: Revision, trials: Sequence[Content]) -> dict[Cell, Content]:
    """The trials by what they measure. Raises BadInput where two cannot be told apart."""
    plan: dict[Cell, Content] = {}
    for content in trials:
        if wrong := plan_damage(content):
            raise BadInput(f"{revision} plans what is no trial: {wrong}")
        cell = _cell(content["labels"])
        if cell in plan:
            raise BadInput(
                f"{revision} plans {cell} more than once: nothing in their names tells these apart"
            )
        plan[cell] = content
    return plan


def _cell(labels: dict[str, Any]) -> Cell:
    return Cell(*(labels[name] for name in Cell._fields))


def hardware_of(plan: dict[Cell, Content]) -> str:
    """The hardware class that the trials of a plan name."""
    return str(next(iter(plan.values()))["labels"]["hardware"])
