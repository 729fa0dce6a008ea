"""A launcher in a process of its own, for tests that interrupt or kill it.

    python -m tests.fakes.launch_driver PLACE LOCKS

Runs the trials below PLACE that have no ok record. A module named by PRELOAD_FIRST in the
environment is the fork server's first import.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from bench.launch import process
from bench.launch.devices import Machine
from bench.launch.local import run_trials
from bench.records.record import read_state
from tests.fakes.fake_trials import ENTRY, PRELOAD


def main(place: Path, locks: Path) -> int:
    """Run the remaining trials, as the command line does; prints the outcomes as JSON."""
    folders = sorted(
        (path.parent for path in place.glob("**/trial.json")), key=lambda folder: folder.name
    )
    to_do = [folder for folder in folders if (read_state(folder) or ("", ""))[1] != "ok"]
    locks.mkdir(exist_ok=True)
    process.GRACE_S = 600.0  # a trial that ignores SIGTERM runs until it is killed
    gpus = ("GPU-a", "GPU-b")  # they do not exist: fake trials compute nothing
    preload = [*filter(None, [os.environ.get("PRELOAD_FIRST")]), *PRELOAD]
    summary = run_trials(to_do, machine=Machine(gpus, locks), entry=ENTRY, preload=preload)
    statuses = {one.folder.name: one.status for one in summary.outcomes}
    print(json.dumps({"statuses": statuses, "num_left": summary.num_left}))
    return summary.exit_code


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
