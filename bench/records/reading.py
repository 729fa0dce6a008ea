"""Records from disk.

    results/**/record.json -> validated Records

A damaged or foreign file is named and left in place; the rest is read without it. What a fake
device measured is named and dropped here, so that no table, figure or frame can contain it.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.records.record import RECORD_NAME, BadRecord, Record, read_record

FAR_FUTURE_S = 1e12


class NothingToReport(Exception):
    """No folder, or no readable record in it; the message says what, where and the way out."""


@dataclass(frozen=True)
class Found:
    """A record and where it lies."""

    record: Record
    folder: Path
    modified_unix_s: float = 0.0  # of the file

    @property
    def started_unix_s(self) -> float:
        """When the trial started; the file's time where the record does not say."""
        started = self.record.provenance.get("started_unix_s")
        if isinstance(started, int | float) and abs(started) < FAR_FUTURE_S:
            return float(started)
        return self.modified_unix_s


@dataclass(frozen=True)
class Reading:
    """What was read, and one line for every file that was left out."""

    found: list[Found] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def read(dirs: Sequence[Path]) -> Reading:
    """Every valid record below `dirs`, in path order.

    Raises NothingToReport when a folder does not exist or nothing readable is in any of them.
    """
    reading = Reading()
    for path in _record_files(dirs):
        _read_one(path, reading)
    if not reading.found:
        where = ", ".join(str(folder) for folder in dirs)
        lines = [f"no readable record below {where}; run an experiment first", *reading.problems]
        raise NothingToReport("\n".join(lines))
    return reading


def _read_one(path: Path, reading: Reading) -> None:
    try:
        record = read_record(path)
        modified_unix_s = path.stat().st_mtime
    except (BadRecord, OSError) as error:
        reading.problems.append(str(error))
        return
    if record.is_fake:
        reading.problems.append(f"{path}: measured with a fake device")
        return
    reading.found.append(Found(record, path.parent, modified_unix_s))


@contextmanager
def garbage_left_alone() -> Iterator[None]:
    """A thousand records are a hundred thousand objects and no garbage: looking costs a third."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def _record_files(dirs: Sequence[Path]) -> list[Path]:
    """Each record file once, also where the folders overlap."""
    paths: dict[Path, Path] = {}
    for folder in dirs:
        if not folder.is_dir():
            raise NothingToReport(f"{folder}: no such folder; name one that `run` wrote")
        for path in sorted(folder.rglob(RECORD_NAME)):
            paths.setdefault(path.resolve(), path)
    return list(paths.values())


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
