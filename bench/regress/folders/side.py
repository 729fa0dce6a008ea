"""One side of a comparison: the records of one run on one machine, by what they measure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from statistics import median

from bench.records import reading
from bench.records.reading import Found, NoRecords
from bench.records.record import BadRecord
from bench.regress.cells import Cell
from bench.regress.verdict import BadInput


@dataclass
class Side:
    """The trials below one folder: one hardware class, the newest of each cell."""

    folder: Path
    hardware: str
    trials: dict[Cell, Found] = field(default_factory=dict)
    num_older: int = 0  # records of the same cell that a newer one replaced

    @property
    def canary_s(self) -> float | None:
        """The machine's fixed workload in this run: median over its trials, seconds per pass."""
        found = [trial.record.diagnostics.get("canary_s") for trial in self.trials.values()]
        times = [float(value) for value in found if isinstance(value, int | float) and value > 0]
        return median(times) if times else None  # the median ignores one disturbed trial

    @property
    def commit(self) -> str | None:
        """The commit that the records name, if it is the same in all."""
        found = {trial.record.environment.get("git_commit") for trial in self.trials.values()}
        return str(found.pop()) if len(found) == 1 and None not in found else None


def read_side(folder: Path) -> Side:
    """Every record below `folder`, which must all be valid.

    Raises BadInput for a missing folder, no record, a damaged or a fake one, and records of
    several hardware classes.
    """
    try:
        records = reading.read([folder])
    except NoRecords as error:
        raise BadInput(str(error)) from error
    # A report goes on without these. Here a record that is missing would look like a trial that
    # was never run, and its regression would be lost.
    if records.problems:
        count = f"{folder}: {len(records.problems)} record(s) cannot be compared"
        way_out = "delete their folders or run them again:"
        raise BadInput("\n".join([f"{count}; {way_out}", *records.problems]))
    trials = records.found
    _check_one_hardware(folder, trials)
    side = Side(folder, trials[0].record.labels.hardware)
    # Oldest first, so that the newest record of a cell is the one that stays.
    for trial in sorted(trials, key=attrgetter("started_unix_s")):
        labels = trial.record.labels
        cell = Cell(labels.task, labels.backbone, labels.method, labels.variant, labels.seed)
        side.num_older += cell in side.trials
        side.trials[cell] = trial
    return side


def read_rounds(trial: Found, size: int) -> reading.Rounds | None:
    """The paired rounds at a batch size that count, see `records.reading`.

    Raises BadInput for a damaged raw.npz.
    """
    try:
        return reading.read_rounds(trial, size)
    except BadRecord as error:
        raise BadInput(f"{error}; run that trial again") from error


def _check_one_hardware(folder: Path, trials: Sequence[Found]) -> None:
    # One tree may hold the records of several machines: results/NAME/<hardware>/...
    found = sorted({trial.record.labels.hardware for trial in trials})
    if len(found) > 1:
        raise BadInput(
            f"{folder}: records of several machines ({', '.join(found)}), and nothing is averaged "
            "over hardware; name the folder of one of them"
        )
