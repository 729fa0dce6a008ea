"""What is already measured: which trials are done, missing or stale, and why.

    done        a record, ok or skipped, under the same key
    failed      a record of a failure under the same key; retry=failed runs it again
    again       requested by retry=failed or retry=invalid
    stale       a record of the same cell and seed, but of another configuration, code or version
    to do       nothing yet
    in the way  a damaged or foreign file where the record belongs; nothing overwrites it

Only keys are read, never whole records, unless invalid metrics are to be measured again.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bench.plan.identity import CONTROLLED
from bench.plan.planned import PlannedTrial
from bench.records.files import read_json
from bench.records.record import (
    RECORD_NAME,
    TRIAL_NAME,
    BadRecord,
    read_record,
    read_state,
    write_json,
)

Kind = Literal["done", "failed", "again", "stale", "to do", "in the way"]
RUNNING: tuple[Kind, ...] = ("to do", "stale", "again")
MOVE_IT = "move it away or delete it, then run again"


@dataclass(frozen=True)
class State:
    """Whether one trial is done, and why."""

    kind: Kind
    why: str = ""

    @property
    def runs(self) -> bool:
        """Whether the trial is going to run."""
        return self.kind in RUNNING


def find_states(trials: Sequence[PlannedTrial], retries: Collection[str] = ()) -> list[State]:
    """The state of each trial; `retries` holds "failed", "invalid" or both. Writes nothing."""
    planned = {trial.key for trial in trials}  # trials of one plan do not outdate one another
    siblings: dict[Path, list[Path]] = {}  # each cell's folder is listed once
    return [_state(trial, retries, planned, siblings) for trial in trials]


def _state(
    trial: PlannedTrial,
    retries: Collection[str],
    planned: Collection[str],
    siblings: dict[Path, list[Path]],
) -> State:
    try:
        found = read_state(trial.folder)
    except NotADirectoryError:  # writing the folder will name the file in its place
        found = None
    except (BadRecord, OSError) as error:
        return State("in the way", f"{error}; {MOVE_IT}")
    if found is None:
        return _without_record(trial, planned, siblings)
    key, status = found
    # The folder's name holds 8 digits of the key: another key there is a copy or a collision.
    if key != trial.key:
        path = trial.folder / RECORD_NAME
        return State("in the way", f"{path}: the record of another trial; {MOVE_IT}")
    if status == "failed":
        return State("again", "failed before") if "failed" in retries else State("failed")
    try:
        names = _invalid(trial.folder) if "invalid" in retries else []
    except BadRecord as error:
        return State("in the way", f"{error}; {MOVE_IT}")
    return State("again", f"not valid: {', '.join(names)}") if names else State("done", status)


def _invalid(folder: Path) -> list[str]:
    """Metrics that were measured and do not count. What cannot be measured is not among them.

    Raises BadRecord.
    """
    record = read_record(folder / RECORD_NAME)
    return [
        k for k, metric in record.metrics.items() if not metric.valid and metric.value is not None
    ]


def _without_record(
    trial: PlannedTrial, planned: Collection[str], siblings: dict[Path, list[Path]]
) -> State:
    try:
        why = _nearest_difference(trial, planned, siblings)
    except OSError as error:
        cannot = f"{trial.folder.parent}: cannot be listed ({error.strerror})"
        return State("in the way", f"{cannot}; make it readable, or choose results=PATH")
    return State("stale", why) if why else State("to do")


def _nearest_difference(
    trial: PlannedTrial, planned: Collection[str], siblings: dict[Path, list[Path]]
) -> str:
    """Why the nearest earlier result of this cell and seed does not serve; "" if there is none."""
    cell = trial.folder.parent
    if cell not in siblings:
        siblings[cell] = sorted(cell.iterdir()) if cell.is_dir() else []
    prefix = f"seed{trial.labels.seed}-"
    earlier = [
        list(differences(identity, trial.identity))
        for folder in siblings[cell]
        if folder.name.startswith(prefix) and (identity := _identity(folder, planned)) is not None
    ]
    # The fewest differences: the result that the user most likely meant to reuse.
    return "; ".join(sorted(earlier, key=len)[0]) if earlier else ""


def _identity(folder: Path, planned: Collection[str]) -> dict[str, Any] | None:
    """The identity behind a record, unless that is a trial of this plan or not readable."""
    try:
        found = read_state(folder)
        if found is None or found[0] in planned:
            return None
        content = read_json(folder / TRIAL_NAME)
        identity = content["identity"]
    except (BadRecord, OSError, ValueError, KeyError, TypeError):
        return None
    return identity if isinstance(identity, dict) else None


def differences(before: dict[str, Any], now: dict[str, Any]) -> Iterator[str]:
    """What differs between two identities, one phrase each: "torch 2.12.0 -> 2.13.0"."""
    old, new = dict(_flatten(before)), dict(_flatten(now))
    targets = now["config"]["entry_points"]
    # Flattened to dotted paths, so that a difference is named by the key that one would override.
    for path in sorted(old.keys() | new.keys()):
        if old.get(path) == new.get(path):
            continue
        block, _, name = path.partition(".")
        if block == "code":
            of = f"the method {now['config']['method'].get(CONTROLLED)}"
            rooms = {"harness": "the measuring rooms", CONTROLLED: of, **targets}
            yield f"code of {rooms.get(name, name).partition(':')[0]} changed"
        elif block == "data":
            yield f"data of {targets['task'].partition(':')[0]} changed"
        else:
            yield f"{name or block} {_value_text(old, path)} -> {_value_text(new, path)}"


def _flatten(content: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in content.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _value_text(flat: dict[str, Any], path: str) -> str:
    if path not in flat:
        return "none"
    value = flat[path]
    return value if isinstance(value, str) else json.dumps(value)


class Foreign(Exception):
    """A foreign file is where trial.json belongs; the message names it."""


def write_trials(trials: Sequence[PlannedTrial]) -> list[Path]:
    """Create the folders of `trials` with their trial.json; returns the folders.

    Raises Foreign, before anything is written, where another trial's or an unreadable trial.json
    is in the way, and OSError where the results folder cannot be written.
    """
    # All are checked before the first is written: a plan is started whole or not at all.
    for trial in trials:
        path = trial.folder / TRIAL_NAME
        if path.exists() and _key(path) != trial.key:
            raise Foreign(f"{path}: not this trial's file; {MOVE_IT}")
    for trial in trials:
        trial.folder.mkdir(parents=True, exist_ok=True)
        write_json(trial.folder / TRIAL_NAME, trial.content())
    return [trial.folder for trial in trials]


def _key(path: Path) -> str | None:
    try:
        return str(read_json(path)["key"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
