"""One side of a comparison: the records of one run on one machine, by what they measure."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np

from bench.records.record import RAW_NAME, RECORD_NAME, BadRecord, Record, read_record
from bench.records.validation import damage


class BadInput(Exception):
    """A folder that cannot be one side of a comparison; the message says what, where, way out."""


class Cell(NamedTuple):
    """What one trial measures, on whatever revision: the labels without hardware and run."""

    task: str
    backbone: str
    method: str
    variant: str
    seed: int

    @property
    def model(self) -> tuple[str, str, str, str]:
        """The cell without its seed."""
        return self[:4]

    def __str__(self) -> str:
        return f"{model_name(self.model)}/seed{self.seed}"


def model_name(model: Sequence[str]) -> str:
    """ "digits/transformer/moe,num_experts=4" of (task, backbone, method, variant)."""
    task, backbone, method, variant = model
    return f"{task}/{backbone}/{method}" + (f",{variant}" if variant else "")


@dataclass(frozen=True)
class Trial:
    """A record and its paired rounds."""

    record: Record
    folder: Path
    modified_unix_s: float  # of the record's file

    @property
    def started_unix_s(self) -> float:
        """When it started; where the record does not say, when its file was written."""
        started = self.record.provenance.get("started_unix_s")
        if isinstance(started, int | float) and math.isfinite(started):
            return float(started)
        return self.modified_unix_s

    def rounds(self, size: int) -> tuple[np.ndarray, np.ndarray] | None:
        """Seconds per pass [K] of the method and of dense at a batch size; None without them.

        Raises BadInput for a damaged raw.npz.
        """
        path = self.folder / RAW_NAME
        try:
            with np.load(path, allow_pickle=False) as raw:
                names = [f"{which}_s_b{size}_point0" for which in ("candidate", "baseline")]
                if any(name not in raw for name in names):
                    return None
                return _paired(raw[names[0]], raw[names[1]])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
            raise BadInput(f"{path}: damaged ({error}); run that trial again") from error

    @property
    def sizes(self) -> list[int]:
        """Batch sizes that were timed. Raises BadInput where the configuration is damaged."""
        try:
            sizes = self.record.config.get("measure", {}).get("batch_sizes", [])
            if any(size < 1 for size in sizes):
                raise ValueError(f"{sizes}")
            return [int(size) for size in sizes]
        except (AttributeError, TypeError, ValueError) as error:
            where = self.folder / RECORD_NAME
            raise BadInput(f"{where}: damaged batch sizes ({error}); run it again") from error


def _paired(one: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both as seconds [K]. Raises ValueError and TypeError for what rounds cannot be."""
    if one.ndim != 1 or one.shape != other.shape or not one.size:
        raise ValueError(f"rounds of shapes {one.shape} and {other.shape}")
    if not (np.isfinite([one, other]).all() and min(one.min(), other.min()) > 0):
        raise ValueError("rounds that took no time")
    return one, other


@dataclass
class Side:
    """The trials below one folder: one hardware class, the newest of each cell."""

    folder: Path
    hardware: str
    trials: dict[Cell, Trial] = field(default_factory=dict)
    num_older: int = 0  # records of the same cell that a newer one replaced

    @property
    def canary_s(self) -> float | None:
        """The machine's fixed workload in this run: median over its trials, seconds per pass."""
        found = [trial.record.diagnostics.get("canary_s") for trial in self.trials.values()]
        times = [float(value) for value in found if isinstance(value, int | float) and value > 0]
        return median(times) if times else None

    @property
    def commit(self) -> str | None:
        """The commit that the records name, if it is the same in all."""
        found = {trial.record.environment.get("git_commit") for trial in self.trials.values()}
        return str(found.pop()) if len(found) == 1 and None not in found else None


def read_side(folder: Path) -> Side:
    """Every record below `folder`.

    Raises BadInput for a missing folder, no record, a damaged one or one of another schema,
    readings of a fake device, and records of several hardware classes.
    """
    if not folder.is_dir():
        raise BadInput(f"{folder}: no such folder; name one that `condbench run` wrote")
    paths = sorted(folder.rglob(RECORD_NAME))
    if not paths:
        raise BadInput(f"{folder}: no record in it; name a folder that `condbench run` wrote")
    trials = [_trial(path) for path in paths]
    _one_hardware(folder, trials)
    side = Side(folder, trials[0].record.labels.hardware)
    for trial in sorted(trials, key=attrgetter("started_unix_s")):
        labels = trial.record.labels
        cell = Cell(labels.task, labels.backbone, labels.method, labels.variant, labels.seed)
        side.num_older += cell in side.trials
        side.trials[cell] = trial
    return side


def _trial(path: Path) -> Trial:
    try:
        record = read_record(path)
        modified_unix_s = path.stat().st_mtime
    except (BadRecord, OSError) as error:
        raise BadInput(f"{error}; delete that folder or run it again") from error
    if wrong := damage(record):
        raise BadInput(f"{path}: {wrong}; delete that folder or run it again")
    if record.is_fake:
        raise BadInput(f"{path}: measured with a fake device, which nothing is compared with")
    return Trial(record, path.parent, modified_unix_s)


def _one_hardware(folder: Path, trials: Sequence[Trial]) -> None:
    found = sorted({trial.record.labels.hardware for trial in trials})
    if len(found) > 1:
        raise BadInput(
            f"{folder}: records of several machines ({', '.join(found)}), and nothing is averaged "
            "over hardware; name the folder of one of them"
        )
