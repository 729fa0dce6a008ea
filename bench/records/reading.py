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
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

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
    for path in _record_files(dirs):
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


def _record_files(dirs: Sequence[Path]) -> list[Path]:
    """Each record file once, also where the folders overlap."""
    paths: dict[Path, Path] = {}
    for folder in dirs:
        if not folder.is_dir():
            raise NoRecords(f"{folder}: no such folder; name one that `condbench run` wrote")
        for path in sorted(folder.rglob(RECORD_NAME)):
            # Keyed by the resolved path, shown by the path that the caller can recognise.
            paths.setdefault(path.resolve(), path)
    return list(paths.values())


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
    try:
        # Without pickle: a file from another machine must not run code when it is read.
        with np.load(path, allow_pickle=False) as raw:
            # Named by bench.measure.speed; point 0 is the default operating point.
            names = [f"{side}_s_b{size}_point0" for side in ("candidate", "baseline")]
            if any(name not in raw for name in names):
                return None
            method, dense = (raw[name] for name in names)
            reasons = raw.get(f"reason_b{size}_point0", np.full(method.shape, ""))
            # Records of before ratios were replicated come from one process.
            process = raw.get(f"process_b{size}_point0", np.zeros(method.shape, np.int64))
            _check_rounds(method, dense, reasons, process)
    except FileNotFoundError:
        return None
    # What numpy raises depends on where the file is cut off.
    except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
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

    if process.dtype.kind not in "iu":
        raise TypeError(f"processes numbered by {process.dtype}")
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
