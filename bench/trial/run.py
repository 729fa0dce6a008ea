"""One trial: build, train, calibrate, evaluate, measure, write the record.

    python -m bench.trial FOLDER      runs the trial that FOLDER/trial.json describes

The launcher, torchrun and a person all come through this door. Everything is resolved in
trial.json: no Hydra here. Whatever happens inside, a record says so; only an interrupt leaves none.
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
from bench.records.redaction import redact
from bench.trial.prepare import BadTrial, OnPhase, Trial, prepare, read_trial
from bench.types import Unsupported


def run(folder: Path, on_phase: OnPhase = lambda phase, share: None) -> Record:
    """Run the trial in `folder` and write its record there; returns the record.

    `on_phase(phase, share)` is told where the trial is. Raises BadTrial for an unreadable folder;
    every other failure, sys.exit included, ends in a `failed` record and a traceback in the log.

    Of several processes under torchrun number 0 writes; the others return theirs unwritten, and
    raise RankFailed for a failure that is theirs alone.
    """
    trial = read_trial(folder)
    told: list[str] = ["start"]

    def tell(phase: str, share: float) -> None:
        told.append(phase)
        on_phase(phase, share)

    started = time.time()
    try:
        with pinned_threads(trial.num_threads):
            findings = _execute(trial, tell)
        record = _record(trial, started, findings)
    except Unsupported as answer:
        record = _record(
            trial, started, Findings(), "skipped", redact(str(answer)) or "unsupported"
        )
    except (Exception, SystemExit) as error:
        _show_traceback()
        reason = ranks.blame(_reason(error, told[-1]))
        record = _record(trial, started, Findings(), "failed", reason)
    on_phase("record", 1.0)
    return record if ranks.number() > 0 else _written(trial, started, record)


def _written(trial: Trial, started: float, record: Record) -> Record:
    """`record`, or the failed one that takes its place where it cannot be written."""
    try:
        write_record(trial.folder, record)
    except (ValueError, TypeError) as error:  # a plugin's word that no JSON holds, such as NaN
        _show_traceback()
        record = _record(trial, started, Findings(), "failed", _reason(error, "record"))
        write_record(trial.folder, record)
    ranks.recorded()
    return record


def _reason(error: BaseException, phase: str) -> str:
    if isinstance(error, SystemExit):
        return redact(f"the trial called sys.exit({error.code!r}) in phase {phase}")
    return f"{type(error).__name__} in phase {phase}: {' '.join(redact(str(error)).split())}"


def _show_traceback() -> None:
    """The traceback of the error at hand, for the log."""
    print(redact(traceback.format_exc()), file=sys.stderr, end="")


def _execute(trial: Trial, tell: OnPhase) -> Findings:
    subject, metrics = prepare(trial, tell)
    if ranks.number() > 0:
        return Findings()
    with trial.inference():
        findings = measure(subject, tell, metrics)
    if ranks.launched() > 1:
        findings.notes.append(
            f"trained in {ranks.launched()} processes, each with a device and its share of every "
            "batch: FLOPs of a training step are those of all, its memory is that of one"
        )
    if findings.raw:
        np.savez_compressed(trial.folder / RAW_NAME, **findings.raw)  # type: ignore[arg-type]
    return findings


def _record(
    trial: Trial, started: float, findings: Findings, status: str = "ok", reason: str | None = None
) -> Record:
    return Record.model_validate(
        {
            "key": trial.key,
            "status": status,
            "reason": reason,
            "labels": trial.labels,
            "config": trial.raw["config"],
            "environment": {
                **environment.fingerprint(),
                "num_threads": trial.num_threads,
                "world_size": ranks.launched(),  # processes, and devices, that trained together
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


def main(arguments: list[str] | None = None) -> int:
    """Run one trial folder by hand: exit code 0 ok or skipped, 1 failed, 2 not a trial."""
    parser = argparse.ArgumentParser(prog="python -m bench.trial", description=__doc__)
    parser.add_argument("folder", type=Path, help="a folder with trial.json")
    folder = parser.parse_args(arguments).folder
    try:
        record = run(folder, lambda phase, share: print(f"{phase} {share:.0%}", file=sys.stderr))
    except BadTrial as error:
        print(f"condbench: {error}", file=sys.stderr)
        return 2
    print(f"{record.status}: {folder}" + (f" ({record.reason})" if record.reason else ""))
    return 1 if record.status == "failed" else 0
