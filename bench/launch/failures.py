"""The `failed` record of a trial that wrote no record itself.

The evidence is how the process ended, its last messages and the end of its log. Secrets are removed
before any of it is written.
"""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.records.files import open_regular, read_json
from bench.records.record import LOG_NAME, TRIAL_NAME, Labels, Record, write_record
from bench.records.redaction import redact

TAIL_BYTES, MAX_LINE_CHARACTERS = 16_384, 300  # read from the end of a log
NUM_KEPT_LINES = 30  # of these, in the record


@dataclass
class ProcessExit:
    """How a trial's process ended, as its launcher saw it."""

    exit_code: int | None  # negative: the signal that killed it; None: never started
    phase: str  # the last one that it reported
    after_s: float  # from the start of the process
    error: str | None = None  # the exception that it reported
    limit_s: float | None = None  # set where the launcher ended it at its time limit
    oom_kills: int = 0  # by the kernel on this machine, during the trial

    def reason(self) -> str:
        """One sentence for the record."""
        # In order of certainty: the launcher's own action, the trial's report, the exit code.
        where = f"in phase {self.phase} after {self.after_s:.1f} s"
        if self.exit_code is None:
            return f"could not be started: {self.error}"
        if self.limit_s is not None:
            return f"exceeded its time limit of {self.limit_s:g} s in phase {self.phase}"
        if self.error is not None:
            return f"{self.error} {where}"
        if self.exit_code == -signal.SIGKILL:
            cause = (
                "out of memory: the kernel's OOM killer was active"
                if self.oom_kills
                # The counter is missing in old kernels and where /proc is hidden.
                else "manually, or by the kernel's OOM killer"
            )
            return f"killed by SIGKILL {where} ({cause})"
        if self.exit_code < 0:
            # Real-time signals have no name of their own.
            names: dict[int, str] = {number: number.name for number in signal.Signals}
            return f"killed by {names.get(-self.exit_code, f'signal {-self.exit_code}')} {where}"
        return f"exited with code {self.exit_code} without a record {where}"


def write_failure(
    folder: Path, end: ProcessExit, environ: Mapping[str, str] = os.environ
) -> Record:
    """Write the `failed` record of the trial in `folder` from its trial.json, and return it.

    Secrets in the evidence are replaced, including the values of secret-looking variables of
    `environ`. Raises OSError where the folder cannot be read or written, ValueError or KeyError for
    an invalid trial.json.
    """
    trial = read_json(folder / TRIAL_NAME)
    tail = [redact(line, environ) for line in log_tail(folder / LOG_NAME)]
    reason = redact(end.reason(), environ)
    if end.error is None and tail:
        # Without an exception the log's last line is the best hint, for example a segfault's.
        reason += f"; {LOG_NAME} ends with: {select_line(tail)}"
    record = Record(
        key=trial["key"],
        status="failed",
        reason=reason,
        labels=Labels.model_validate(trial["labels"]),
        config=trial["config"],
        provenance=_provenance(trial, end),
        diagnostics={
            "exit_code": end.exit_code,
            "phase": end.phase,
            "log_tail": tail[-NUM_KEPT_LINES:],
        },
    )
    write_record(folder, record)
    return record


def _provenance(trial: Mapping[str, Any], end: ProcessExit) -> dict[str, Any]:
    origin = {name: trial[name] for name in ("identity", "entry_points") if name in trial}
    # The start decides which of a trial's records is the newest.
    times = {"started_unix_s": time.time() - end.after_s, "duration_s": end.after_s}
    return {**origin, "written_by": "launcher", **times}


def log_tail(path: Path) -> list[str]:
    """The non-empty lines at the end of a log, each shortened; [] where there is no log."""
    try:
        with open_regular(path) as file:
            file.seek(max(0, path.stat().st_size - TAIL_BYTES))
            # "replace": the read may start inside a character, and programs print any bytes.
            text = file.read().decode("utf-8", errors="replace")
    except OSError:
        return []
    return [line.rstrip()[:MAX_LINE_CHARACTERS] for line in text.splitlines() if line.strip()]


def select_line(tail: Sequence[str]) -> str:
    """The most informative line of a log: the innermost frame of its last stack dump, if any.

    Without a stack dump it is the last line.
    """
    # faulthandler's heading; the innermost call is the line below it.
    stacks = [n for n, line in enumerate(tail[:-1]) if line.endswith("(most recent call first):")]
    return (tail[stacks[-1] + 1] if stacks else tail[-1]).strip()


def count_oom_kills(counters: Path = Path("/proc/vmstat")) -> int:
    """Processes that the kernel's OOM killer has ended since boot; 0 where there is no counter."""
    try:
        text = counters.read_text(encoding="ascii")
    except OSError:
        return 0
    found = re.search(r"^oom_kill (\d+)$", text, re.MULTILINE)
    return int(found.group(1)) if found else 0
