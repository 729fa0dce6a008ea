"""`condbench nightly`: compare two revisions, write body and verdict, add the night to history."""

from __future__ import annotations

import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from bench.regress import history
from bench.regress.compare import report_progress, with_default_experiment, write_verdict
from bench.regress.markdown import body

# Settings of the night itself; every other KEY=VALUE goes to both revisions' plans.
DEFAULTS = {"baseline": "nightly-baseline", "candidate": "HEAD", "history": "", "out": ""}
LIMITS_S = {"cpu": 20 * 60, "one": 30 * 60, "ddp": 30 * 60}  # of a whole night
NIGHTS = Path("results") / "nights"


def nightly(overrides: list[str], *, simulate: bool) -> int:
    """Run one night, or with `simulate` print the gate's error rates; the exit code.

    Raises BadInput for revisions that cannot be compared.
    """
    if simulate:
        return _print_error_rates()
    settings, plan_overrides = _split(overrides)
    started_unix_s = time.time()
    # Imported here: `--simulate` needs no devices.
    from bench.regress.revisions.compare import compare_revisions

    verdict = compare_revisions(
        Path(),
        settings["baseline"],
        settings["candidate"],
        with_default_experiment(plan_overrides),
        report_progress=report_progress,
        limits_s=LIMITS_S,
    )
    place = Path(settings["history"]) if settings["history"] else history.default_folder()
    # Before this night is appended: its canary is compared with earlier ones.
    verdict.notes += history.machine_note(place, verdict)
    print(body(verdict), end="")
    stamp = datetime.fromtimestamp(started_unix_s, UTC).strftime("%Y-%m-%dT%H%M%SZ")
    written = write_verdict(verdict, Path(settings["out"]) if settings["out"] else NIGHTS / stamp)
    written.append(history.append(place, verdict, started_unix_s))
    print("written:", *written, file=sys.stderr)
    return verdict.exit_code


def _print_error_rates() -> int:
    """Print the gate's error rates; 1 where a target is missed."""
    from bench.regress.simulate import error_rates

    missed: list[str] = []
    # Each is printed as soon as it is simulated.
    for figure in error_rates():
        print(figure.text, flush=True)
        missed += figure.missed
    if missed:
        print("missed:", ", ".join(missed))
    return 1 if missed else 0


def _split(overrides: list[str]) -> tuple[dict[str, str], list[str]]:
    """The night's settings with their defaults, and the overrides of the plan."""
    settings, plan_overrides = dict(DEFAULTS), []
    for text in overrides:
        key, _, value = text.partition("=")
        if key in DEFAULTS:
            settings[key] = value
        else:
            plan_overrides.append(text)
    return settings, plan_overrides
