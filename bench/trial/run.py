"""One trial: build, train, calibrate, evaluate, measure, write the record.

    python -m bench.trial FOLDER      runs the trial that FOLDER/trial.json describes

The launcher and torchrun call `run`; `main` is for a rerun by hand. Everything is resolved in
trial.json: no Hydra here. Every outcome ends in a record, except an interrupt.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from pathlib import Path

import numpy as np

from bench import ranks
from bench.measure import Findings, measure
from bench.meters.conditions import pinned_threads
from bench.records import environment
from bench.records.record import RAW_NAME, Record, write_record
from bench.records.redaction import bounded, redact
from bench.records.writable import writable
from bench.trial.prepare import prepare
from bench.trial.static import count_only
from bench.trial.trained import OnPhase
from bench.trial.trial import BadTrial, Trial, read_trial
from bench.types import Unsupported

MAX_REASON_CHARACTERS = 4000  # of an exception's own message


def run(folder: Path, on_phase: OnPhase = lambda phase, share: None) -> Record:
    """Run the trial in `folder` and write its record there; returns the record.

    `on_phase(phase, share)` is called with the progress. Raises BadTrial for an unreadable folder;
    every other failure, sys.exit included, ends in a `failed` record and a traceback in the log.

    Under torchrun rank 0 writes; the other ranks return their record unwritten, and raise
    RankFailed for a failure of theirs alone.
    """
    trial = read_trial(folder)
    phases: list[str] = ["start"]  # the last one names where a failure happened

    def report_progress(phase: str, share: float) -> None:
        phases.append(phase)
        on_phase(phase, share)

    started = time.time()
    try:
        with pinned_threads(trial.num_threads):
            findings = _execute(trial, report_progress)
        record = _make_record(trial, started, findings)
    except Unsupported as refusal:
        record = _make_record(
            trial, started, Findings(), "skipped", _words(refusal) or "unsupported"
        )
    except (Exception, SystemExit) as error:
        # SystemExit too: a plugin that calls sys.exit must not end without a record. Not
        # KeyboardInterrupt: an interrupted trial is run again on resume.
        _print_traceback()
        reason = ranks.root_cause(_reason(error, phases[-1]))
        record = _make_record(trial, started, Findings(), "failed", reason)
    on_phase("record", 1.0)
    return record if ranks.rank() > 0 else _write(trial, started, record)


def _write(trial: Trial, started: float, record: Record) -> Record:
    """Write `record`, or a failed one in its place where it cannot be written; returns it."""
    try:
        write_record(trial.folder, record)
    except (ValueError, TypeError) as error:  # no value of a plugin: those were made writable
        _print_traceback()
        record = _make_record(trial, started, Findings(), "failed", _reason(error, "record"))
        write_record(trial.folder, record)
    # Only when the file is in place: ranks that wait for this may exit next.
    ranks.notify_recorded()
    return record


def _reason(error: BaseException, phase: str) -> str:
    """The reason of a failed record: one line, without secrets."""
    if isinstance(error, SystemExit):
        return f"the trial called sys.exit({_words(repr(error.code))}) in phase {phase}"
    return f"{type(error).__name__} in phase {phase}: {' '.join(_words(error).split())}"


def _words(text: object) -> str:
    """Foreign text without secrets, and no longer than a record should be."""
    # Redacted before spaces are joined or a part is cut: a secret would no longer match.
    return bounded(redact(str(text)), MAX_REASON_CHARACTERS)


def _print_traceback() -> None:
    """Print the traceback of the error being handled to the log, without secrets."""
    print(redact(traceback.format_exc()), file=sys.stderr, end="")


def _execute(trial: Trial, report_progress: OnPhase) -> Findings:
    """Prepare the trial's model and measure it; ranks other than 0 have no findings."""
    if trial.config.measure.counts_only:
        return count_only(trial, report_progress)
    subject, metrics = prepare(trial, report_progress)
    if ranks.rank() > 0:
        return Findings()
    with trial.inference():
        findings = measure(subject, report_progress, metrics)
    if ranks.world_size() > 1:
        findings.notes.append(
            f"trained in {ranks.world_size()} processes, each with a device and its share of every "
            "batch: FLOPs of a training step are those of all, its memory is that of one"
        )
    if findings.raw:
        np.savez_compressed(trial.folder / RAW_NAME, **findings.raw)  # type: ignore[arg-type]
    return findings


def _make_record(
    trial: Trial, started: float, findings: Findings, status: str = "ok", reason: str | None = None
) -> Record:
    # Plugins supply scores, units and names: what JSON cannot hold is left out, by name.
    return Record.model_validate(
        writable(
            {
                "key": trial.key,
                "status": status,
                "reason": reason,
                "labels": trial.labels,
                "config": trial.raw["config"],
                "environment": {
                    **environment.fingerprint(),
                    "num_threads": trial.num_threads,  # in force, perhaps fewer than cores
                    "world_size": ranks.world_size(),  # processes that trained together
                },
                "provenance": {
                    "identity": trial.raw["identity"],
                    "entry_points": trial.entry_points,
                    "started_unix_s": started,
                    "duration_s": time.time() - started,
                },
                "metrics": findings.metrics,
                "quality": findings.quality,
                "points": findings.points,
                "diagnostics": findings.diagnostics,
                "notes": findings.notes,
            }
        )
    )


def main(arguments: list[str] | None = None) -> int:
    """Run one trial folder by hand: exit code 0 ok or skipped, 1 failed, 2 not a trial."""
    parser = argparse.ArgumentParser(prog="python -m bench.trial", description=__doc__)
    parser.add_argument("folder", type=Path, help="a folder with trial.json")
    folder = parser.parse_args(arguments).folder
    try:
        # Progress on stderr: stdout holds the result alone.
        record = run(folder, lambda phase, share: print(f"{phase} {share:.0%}", file=sys.stderr))
    except BadTrial as error:
        print(f"condbench: {error}", file=sys.stderr)
        return 2
    print(f"{record.status}: {folder}" + (f" ({record.reason})" if record.reason else ""))
    return 1 if record.status == "failed" else 0
