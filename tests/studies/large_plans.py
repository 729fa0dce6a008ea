"""The cost of planning and reading at scale (`make overhead`).

    python -m tests.studies.large_plans

10,000 trials are planned, 1,008 records (the published quickstart's, copied as 72 seeds) become
tables, and `condbench --help` answers. Printed: wall-clock seconds beside their limits.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from bench.plan.matrix import make_plan

QUICKSTART = Path(__file__).parents[2] / "results" / "published" / "quickstart"
NUM_TRIALS = 10_000
NUM_SEEDS = 72  # of each of the quickstart's 14 trials


def seconds(run: Callable[[], object]) -> float:
    """Wall-clock seconds of one call."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def many_records(folder: Path) -> int:
    """Copies of the published records below `folder`, each with a seed and key of its own."""
    found = sorted(QUICKSTART.rglob("record.json"))
    for path in found:
        record = json.loads(path.read_text(encoding="utf-8"))
        for seed in range(NUM_SEEDS):
            record["labels"]["seed"] = record["config"]["seed"] = seed
            record["key"] = f"{seed:08x}{record['key'][8:]}"
            copy = folder / path.parent.parent.relative_to(QUICKSTART) / f"seed{seed}-{seed:08x}"
            copy.mkdir(parents=True)
            (copy / "record.json").write_text(json.dumps(record), encoding="utf-8")
    return len(found) * NUM_SEEDS


def python_s(code: str, *arguments: str) -> float:
    """Seconds of `code` in a new process, imports included, as for a command."""
    return seconds(partial(subprocess.run, [sys.executable, "-c", code, *arguments], check=True))


TABLES = """
import sys
from pathlib import Path
from bench.records.reading import read
from bench.report.tables.rows import tables
from bench.report.render.text import markdown
assert markdown(tables(read([Path(sys.argv[1])]).found))
"""
REPORT = """
import sys
from pathlib import Path
from bench.report.build import build
build([Path(sys.argv[1])], Path(sys.argv[2]))
"""


def planning_s() -> float:
    """Seconds that planning takes, after imports and entry points."""
    make_plan(["method=dense"])
    seeds = "seed=" + ",".join(map(str, range(NUM_TRIALS)))
    return seconds(lambda: make_plan(["method=dense", seeds]))


def measure_all() -> Iterator[tuple[str, float, float | None]]:
    """The measured operations: name, seconds, and the limit where there is one."""
    yield f"planning {NUM_TRIALS:,} trials", planning_s(), 5.05
    with tempfile.TemporaryDirectory() as place:
        results = Path(place) / "results"
        num = many_records(results)
        yield f"{num:,} records into tables", python_s(TABLES, str(results)), 3.0
        yield "the same with figures and HTML", python_s(REPORT, str(results), place), None
    command = [str(Path(sys.executable).with_name("condbench")), "--help"]
    run = partial(subprocess.run, command, stdout=subprocess.DEVNULL, check=True)
    yield "condbench --help", seconds(run), 0.5


def main() -> int:
    """Print the seconds beside their limits; returns 1 if a limit is exceeded, else 0."""
    prog = "python -m tests.studies.large_plans"
    argparse.ArgumentParser(prog=prog, description=__doc__.splitlines()[0]).parse_args()
    missed = False
    for name, time_s, limit_s in measure_all():
        limit = "no limit" if limit_s is None else f"limit {limit_s} s"
        print(f"{name:32} {time_s:6.2f} s ({limit})", flush=True)
        missed |= limit_s is not None and time_s > limit_s
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
