"""What the launcher writes about a trial that left no record of its own.

Evidence is how the process ended, what it told last, and the end of its log; secrets are taken out
before any of it is written.
"""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.records.record import LOG_NAME, TRIAL_NAME, Labels, Record, write_record
from bench.records.redaction import redact

TAIL_BYTES, LINE_CHARACTERS = 16_384, 300  # of a log, for the reason
KEPT_LINES = 30  # of these, in the record


@dataclass
class Death:
    """How a trial's process ended, as its launcher saw it."""

    exit_code: int | None  # negative: the signal that killed it; None: never started
    phase: str
    after_s: float
    error: str | None = None  # what it told before it ended
    limit_s: float | None = None  # set where the launcher ended it at its time limit
    oom_kills: int = 0  # processes that the kernel killed for want of memory meanwhile

    def reason(self) -> str:
        """One sentence for the record."""
        where = f"in phase {self.phase} after {self.after_s:.1f} s"
        if self.exit_code is None:
            return f"could not be started: {self.error}"
        if self.limit_s is not None:
            return f"exceeded its time limit of {self.limit_s:g} s in phase {self.phase}"
        if self.error is not None:
            return f"{self.error} {where}"
        if self.exit_code == -signal.SIGKILL:
            cause = (
                "out of memory: the kernel's out-of-memory killer was at work"
                if self.oom_kills
                else "by hand, or by the kernel for want of memory"
            )
            return f"killed by SIGKILL {where} ({cause})"
        if self.exit_code < 0:
            names: dict[int, str] = {number: number.name for number in signal.Signals}
            return f"killed by {names.get(-self.exit_code, f'signal {-self.exit_code}')} {where}"
        return f"ended with exit code {self.exit_code} and without a record {where}"


def write_failure(folder: Path, death: Death, environ: Mapping[str, str] = os.environ) -> Record:
    """Write the `failed` record of the trial in `folder` from its trial.json; returns it.

    Secrets found in the evidence, values of secret-looking variables in `environ` among them, are
    replaced. Raises OSError where the folder cannot be read or written, ValueError (KeyError) for
    a trial.json that is not one.
    """
    trial = json.loads((folder / TRIAL_NAME).read_text(encoding="utf-8"))
    tail = [redact(line, environ) for line in log_tail(folder / LOG_NAME)]
    reason = redact(death.reason(), environ)
    if death.error is None and tail:
        reason += f"; {LOG_NAME} ends with: {last_words(tail)}"
    record = Record(
        key=trial["key"],
        status="failed",
        reason=reason,
        labels=Labels.model_validate(trial["labels"]),
        config=trial["config"],
        provenance=_provenance(trial, death),
        diagnostics={
            "exit_code": death.exit_code,
            "phase": death.phase,
            "log_tail": tail[-KEPT_LINES:],
        },
    )
    write_record(folder, record)
    return record


def _provenance(trial: Mapping[str, Any], death: Death) -> dict[str, Any]:
    known = {name: trial[name] for name in ("identity", "entry_points") if name in trial}
    # When it started decides which of a trial's records is the newest.
    times = {"started_unix_s": time.time() - death.after_s, "duration_s": death.after_s}
    return {**known, "written_by": "launcher", **times}


def log_tail(path: Path) -> list[str]:
    """Lines at a log's end that are not empty, each shortened; [] where there is no log."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL_BYTES))
            text = file.read().decode("utf-8", errors="replace")
    except OSError:
        return []
    return [line.rstrip()[:LINE_CHARACTERS] for line in text.splitlines() if line.strip()]


def last_words(tail: Sequence[str]) -> str:
    """The line of a log that says most: where the last stack dump stands, else the last line."""
    stacks = [n for n, line in enumerate(tail[:-1]) if line.endswith("(most recent call first):")]
    return (tail[stacks[-1] + 1] if stacks else tail[-1]).strip()


def oom_kills(counters: Path = Path("/proc/vmstat")) -> int:
    """Processes that this kernel has killed for want of memory since it started; 0 if unknown."""
    try:
        text = counters.read_text()
    except OSError:
        return 0
    found = re.search(r"^oom_kill (\d+)$", text, re.MULTILINE)
    return int(found.group(1)) if found else 0
