"""Earlier nights: one JSON line per night, one file per hardware, outside the checkout.

    <history>/<hardware>.jsonl

Runners clean their checkout, so the default is the user's data folder. A line is appended whole,
under a lock. A line that a crash cut off is reported when the file is read; the others count.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from bench.records import layout
from bench.records.files import parse_json, read_bytes
from bench.records.validation import first_error
from bench.regress.causes import machine_changed
from bench.regress.verdict import Row, Verdict

SCHEMA_VERSION = 1
MAX_HISTORY_BYTES = 256 * 2**20  # ten years of nights with a hundred metrics have 70 MB
NUM_EARLIER = 7  # nights whose median canary a new one is compared with


class BadHistory(Exception):
    """No history at a path, or none that can be read; the message names the path."""


@dataclass
class History:
    """The nights of one hardware, oldest first, and lines that could not be read."""

    hardware: str
    nights: list[dict[str, Any]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


POSITIVE = Annotated[float, Field(gt=0)]


class NightMetric(BaseModel):
    """A metric of a night, as far as a reader depends on it."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    value: float | None
    ratio: float | None
    low: float | None
    high: float | None
    judgement: str


class Night(BaseModel):
    """A line of the history, likewise."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    unix_s: Annotated[float, Field(ge=0)]
    baseline: str
    candidate: str
    outcome: str
    canary_s: POSITIVE | None
    metrics: dict[str, NightMetric]


def default_folder() -> Path:
    """$XDG_DATA_HOME/condbench/history, below ~/.local/share where that is not set."""
    # The XDG base directory specification; ~/.local/share is its default.
    home = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(home) / "condbench" / "history"


def path_of(folder: Path, hardware: str) -> Path:
    """The file of one hardware."""
    return folder / f"{layout.part(hardware)}.jsonl"


def append(folder: Path, verdict: Verdict, when_unix_s: float) -> Path:
    """Add a night to its hardware's file, made if it is not there; the file's path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = path_of(folder, verdict.hardware)
    line = json.dumps(night_content(verdict, when_unix_s), allow_nan=False, ensure_ascii=False)
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    with path.open("a+b") as file:
        # Two runners of one machine may end at the same time.
        fcntl.flock(file, fcntl.LOCK_EX)
        # After a crash the file may end in half a line: the new night must not continue it.
        cut_off = file.tell() > 0 and not _ends_with_newline(path)
        file.write((b"\n" if cut_off else b"") + line.encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
    return path


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def night_content(verdict: Verdict, when_unix_s: float) -> dict[str, Any]:
    """A night as its line in the history holds it."""
    return {
        "schema_version": SCHEMA_VERSION,
        "unix_s": when_unix_s,
        "hardware": verdict.hardware,
        "baseline": verdict.baseline,
        "candidate": verdict.candidate,
        "outcome": verdict.outcome,
        "canary_s": verdict.canary_s,
        "metrics": {row.name: _metric_content(row) for row in verdict.rows},
    }


def _metric_content(row: Row) -> dict[str, Any]:
    # A rerun that did not repeat the regression is the measurement that counts.
    withdrawn = row.rerun is not None and row.judgement != "regressed"
    ratio = row.rerun if withdrawn else row.ratio
    return {
        "value": row.candidate,
        "unit": row.unit,
        "ratio": ratio.value if ratio else None,
        "low": ratio.low if ratio else None,
        "high": ratio.high if ratio else None,
        "judgement": row.judgement,
        "reason": row.reason,
    }


def read(path: Path) -> list[History]:
    """The histories at `path`, a file or a folder of them.

    Raises BadHistory where there is none, or no readable night in any.
    """
    paths = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    if not paths or not all(each.is_file() for each in paths):
        raise BadHistory(f"{path}: no history; `condbench nightly history=PATH` writes one")
    # Damaged lines are in `problems`; only a path without any night is an error.
    histories = [_read_one(each) for each in paths]
    if not any(history.nights for history in histories):
        raise BadHistory(f"{path}: no readable night in it")
    return histories


def _read_one(path: Path) -> History:
    history = History(path.stem)
    # Not splitlines(): names may hold characters that it treats as line ends, such as U+2028.
    text = read_bytes(path, MAX_HISTORY_BYTES).decode("utf-8", errors="replace")
    lines = text.removesuffix("\n").split("\n")
    for number, line in enumerate(lines, start=1):
        try:
            history.nights.append(_parse_night(line))
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, OSError) as error:
            history.problems.append(f"{path}:{number}: not a night ({error})")
    # A night that took longer may have been appended after a later one.
    history.nights.sort(key=lambda night: night["unix_s"])
    return history


def _parse_night(line: str) -> dict[str, Any]:
    """The night in one line. Raises ValueError and others where it is not whole, or not valid."""
    content = parse_json(line)
    if content["schema_version"] != SCHEMA_VERSION:
        raise ValueError(f"schema version {content['schema_version']!r}")
    if error := first_error(Night, content, "night"):
        raise ValueError(error)
    datetime.fromtimestamp(content["unix_s"], UTC)  # raises for a time that no calendar shows
    for name, metric in content["metrics"].items():
        ratio, low, high = (metric[key] for key in ("ratio", "low", "high"))
        if ratio is not None and not (low or ratio) <= ratio <= (high or ratio):
            raise ValueError(f"{name}: ratio {ratio:.4g} is outside its own interval")
    return dict(content)


def machine_note(folder: Path, verdict: Verdict) -> Iterator[str]:
    """A note on the machine: this night's canary beside the median of the last nights."""
    path = path_of(folder, verdict.hardware)
    earlier = _read_one(path).nights[-NUM_EARLIER:] if path.is_file() else []
    times = [float(night["canary_s"]) for night in earlier if night.get("canary_s")]
    if verdict.canary_s is None or not times:
        return
    usual = median(times)
    change = "changed" if machine_changed(usual, verdict.canary_s) else "is the same"
    # No verdict of its own: a changed machine slows both revisions alike.
    yield (
        f"canary: {1e3 * verdict.canary_s:.3g} ms per pass, {1e3 * usual:.3g} ms in the last "
        f"{len(times)} night(s): the machine {change}; both revisions ran on it in turns"
    )
