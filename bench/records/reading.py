"""Records from disk: the one reader of reports and comparisons.

    results/**/record.json -> validated records, and one sentence for each file that is left out

The rules, the same for every caller:

    a record    a file called record.json below the named folders, each file once
    damaged     no JSON, another schema, or no valid identity and environment (records.validation)
    fake        measured with a stand-in for a device: it enters no table, figure or verdict
    started     the time in the record; the file's time where the record has none

Nothing on disk is changed. A report goes on without the files that are left out; a comparison
rejects the whole folder with the same sentences.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bench.records.arrays import open_arrays
from bench.records.record import RAW_NAME, RECORD_NAME, BadRecord, Record, read_record
from bench.records.validation import damage

if TYPE_CHECKING:
    import numpy as np


class NoRecords(Exception):
    """No folder, or no readable record in it; the message says what, where and the way out."""


@dataclass(frozen=True)
class Found:
    """A record and where it lies."""

    record: Record
    folder: Path
    modified_unix_s: float = 0.0  # of the file

    @property
    def started_unix_s(self) -> float:
        """When the trial started; the file's time where the record has no start."""
        started = self.record.provenance.get("started_unix_s")
        return self.modified_unix_s if started is None else float(started)

    @property
    def batch_sizes(self) -> list[int]:
        """The batch sizes that were timed; [] where the configuration names none."""
        return list(config_block(self.record, "measure").get("batch_sizes", []))


@dataclass(frozen=True)
class Reading:
    """What was read, and one line for every file that was left out."""

    found: list[Found] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def read(dirs: Sequence[Path]) -> Reading:
    """Every valid record below `dirs`, in path order.

    Raises NoRecords when a folder does not exist or nothing readable is in any of them.
    """
    reading = Reading()
    for path in record_files(dirs):
        try:
            reading.found.append(read_one(path))
        except BadRecord as error:
            reading.problems.append(str(error))
    if not reading.found:
        where = ", ".join(str(folder) for folder in dirs)
        lines = [f"no readable record below {where}; run an experiment first", *reading.problems]
        raise NoRecords("\n".join(lines))
    return reading


def read_one(path: Path) -> Found:
    """The record in the file `path`.

    Raises BadRecord for a damaged record and for one of a fake device; the message names the file.
    """
    record = read_record(path)
    if wrong := damage(record):
        raise BadRecord(f"{path}: {wrong}")
    if record.is_fake:
        raise BadRecord(f"{path}: measured with a fake device")
    try:
        # A run in progress may replace or remove the file between the two reads.
        modified_unix_s = path.stat().st_mtime
    except OSError as error:
        raise BadRecord(f"{path}: not readable ({error.strerror})") from error
    return Found(record, path.parent, modified_unix_s)


def record_files(dirs: Sequence[Path]) -> list[Path]:
    """What is called record.json below `dirs`, each once, also where the folders overlap.

    Raises NoRecords for a folder that does not exist.
    """
    paths: dict[str, Path] = {}
    for folder in dirs:
        if not folder.is_dir():
            raise NoRecords(f"{folder}: no such folder; name one that `condbench run` wrote")
        # Not rglob: it leaves out links that lead nowhere, as if the trial had never been run.
        for parent, folders, files in os.walk(folder):
            if RECORD_NAME in files or RECORD_NAME in folders:
                path = Path(parent, RECORD_NAME)
                # By its real place, shown as the path that the caller can recognise. A link to
                # itself has no other place, for which Path.resolve raises.
                paths.setdefault(os.path.realpath(path), path)
    return sorted(paths.values())


class Rounds(NamedTuple):
    """Paired rounds that count: seconds per pass of both models, and their process, each [K]."""

    method_s: np.ndarray
    dense_s: np.ndarray
    process: np.ndarray


def read_rounds(found: Found, size: int) -> Rounds | None:
    """The K rounds that count at this batch size.

    None where the batch size was not timed, or no round counts. Raises BadRecord for a damaged
    raw.npz.
    """
    import numpy as np

    path = found.folder / RAW_NAME
    # Named by bench.measure.speed; point 0 is the default operating point.
    names = [
        f"{name}_b{size}_point0" for name in ("candidate_s", "baseline_s", "reason", "process")
    ]
    try:
        with open_arrays(path) as raw:
            method, dense, reasons, process = map(raw.get, names)
        if method is None or dense is None:
            return None
        reasons = np.full(method.shape, "") if reasons is None else reasons
        # Records of before ratios were replicated come from one process.
        process = np.zeros(method.shape, np.int64) if process is None else process
        _check_rounds(method, dense, reasons, process)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BadRecord(f"{path}: not readable ({error.strerror})") from error
    except (ValueError, TypeError) as error:
        raise BadRecord(f"{path}: damaged ({error})") from error
    counts = reasons == ""  # a GPU that slowed down: the record's own ratio leaves these out too
    return Rounds(method[counts], dense[counts], process[counts]) if counts.any() else None


def _check_rounds(
    method: np.ndarray, dense: np.ndarray, reasons: np.ndarray, process: np.ndarray
) -> None:
    """Raise ValueError or TypeError unless both are K positive finite times, with K reasons.

    And K numbers of processes.
    """
    import numpy as np

    for array, kinds in ((method, "f"), (dense, "f"), (reasons, "U"), (process, "iu")):
        if array.dtype.kind not in kinds:
            raise TypeError(f"an array of {array.dtype} among the rounds")
    shapes = {method.shape, dense.shape, reasons.shape, process.shape}
    if method.ndim != 1 or len(shapes) > 1 or not method.size:
        raise ValueError(f"rounds of shapes {method.shape} and {dense.shape}")
    # Ratios are taken of their logarithms: 0 s and NaN would pass through to the verdict.
    if not (np.isfinite([method, dense]).all() and min(method.min(), dense.min()) > 0):
        raise ValueError("a round's time is not a positive finite number")


@contextmanager
def paused_garbage_collection() -> Iterator[None]:
    """Garbage collection off while records are read, on again afterwards.

    A thousand records are a hundred thousand live objects: scanning them takes a third of the time.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def profile(record: Record) -> str:
    """The name of the measure profile that the record was taken with."""
    return str(config_block(record, "measure").get("profile", "unknown"))


def config_block(record: Record, name: str) -> Mapping[str, Any]:
    """A nested block of the record's config; empty where there is none."""
    block = record.config.get(name)
    return block if isinstance(block, dict) else {}


def point_name(settings: Mapping[str, float | int | str]) -> str:
    """An operating point as text: `threshold=0.9, k=2`."""
    return ", ".join(f"{name}={value}" for name, value in settings.items())
