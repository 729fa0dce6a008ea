"""One session: servers of its own, the trained models, every method at every batch size.

<folder>/sessions/<training>-<number>.json     what `coverage` reads

Servers start by exec and end with the session, so that what changes between processes is drawn
anew. Nothing is trained.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.meters.time.replicas import Replicas, start_servers
from bench.meters.time.replicated import PairedWork, ReplicatedTiming, replicate
from bench.records import environment
from bench.records.record import write_json
from bench.selftest.sessions.trained import read_works, training_name

SCHEMA = 1


def session_path(folder: Path, seed: int, number: int) -> Path:
    """Where session `number` of a training lies."""
    return folder / "sessions" / f"{training_name(seed)}-{number:03d}.json"


def next_number(folder: Path, seed: int) -> int:
    """The first session that is not there yet: an interrupted study goes on with it."""
    number = 0
    while session_path(folder, seed, number).exists():
        number += 1
    return number


def run_session(folder: Path, seed: int, number: int, processes: int, rounds: int) -> Path:
    """Time every method in `processes` new processes of `rounds` rounds; the written file.

    Raises FileNotFoundError without trained models and ReplicaError where a replica fails.
    """
    works = read_works(folder, seed)
    path = session_path(folder, seed, number)
    path.parent.mkdir(parents=True, exist_ok=True)
    begun_s, started_unix_s = time.monotonic(), time.time()
    cells = _time(works, processes, rounds)
    content = {
        "schema": SCHEMA,
        "training": training_name(seed),
        "started_unix_s": started_unix_s,
        "duration_s": round(time.monotonic() - begun_s, 1),
        "processes": processes,
        "rounds": rounds,
        "environment": environment.fingerprint(),
        "cells": cells,
    }
    return write_json(path, content)


def _time(
    works: Mapping[str, PairedWork], processes: int, rounds: int
) -> dict[str, dict[str, dict[str, Any]]]:
    """Readings by method and batch size."""
    servers = start_servers(processes)
    try:
        replicas = Replicas(servers.folder, processes)
        return {
            method: {
                str(size): _reading(timing)
                for size, timing in replicate(replace(work, rounds=rounds), replicas).items()
            }
            for method, work in works.items()
        }
    finally:
        servers.close()


def _reading(timing: ReplicatedTiming) -> dict[str, Any]:
    """One cell of a session: what a record has of it."""
    return {
        "process_log_ratios": [float(median) for median in timing.medians],
        "noise_floor": timing.noise_floor,
        "reason": timing.reason,
        "warmup_s": [round(each.warmup_s, 2) for each in timing.timings],
    }
