"""`condbench nightly`: compare two revisions, write body and verdict, add the night to history."""

from __future__ import annotations

import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from bench.regress import history
from bench.regress.command import asked, write
from bench.regress.markdown import body
from bench.regress.revisions.night import compare_revisions

OURS = {"baseline": "nightly-baseline", "candidate": "HEAD", "history": "", "out": ""}
LIMITS_S = {"cpu": 20 * 60, "one": 30 * 60, "ddp": 30 * 60}  # of a whole night
NIGHTS = Path("results") / "nights"


def nightly(overrides: list[str], *, simulate: bool) -> int:
    """One night, or with `simulate` the gate's error rates; the exit code. Raises BadInput."""
    if simulate:
        return _simulated()
    ours, rest = _split(overrides)
    started_unix_s = time.time()
    sides = (ours["baseline"], ours["candidate"])
    verdict = compare_revisions(Path(), *sides, asked(rest), say=_say, limits_s=LIMITS_S)
    place = Path(ours["history"]) if ours["history"] else history.default_folder()
    verdict.notes += history.machine_note(place, verdict)
    print(body(verdict), end="")
    stamp = datetime.fromtimestamp(started_unix_s, UTC).strftime("%Y-%m-%dT%H%M%SZ")
    written = write(verdict, Path(ours["out"]) if ours["out"] else NIGHTS / stamp)
    written.append(history.append(place, verdict, started_unix_s))
    print("written:", *written, file=sys.stderr)
    return verdict.exit_code


def _simulated() -> int:
    """Print the gate's error rates; 1 where a target is missed."""
    from bench.regress.simulate import report

    missed: list[str] = []
    for figure in report():
        print(figure.text, flush=True)
        missed += figure.missed
    if missed:
        print("missed:", ", ".join(missed))
    return 1 if missed else 0


def _split(overrides: list[str]) -> tuple[dict[str, str], list[str]]:
    """What is the night's own, and what every run takes."""
    ours, rest = dict(OURS), []
    for text in overrides:
        key, _, value = text.partition("=")
        if key in OURS:
            ours[key] = value
        else:
            rest.append(text)
    return ours, rest


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
