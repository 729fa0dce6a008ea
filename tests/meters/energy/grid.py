"""The grid of simulated boards: how often the truth lies within the stated uncertainty.

    python -m tests.meters.energy.grid [--seeds 3] [--by sensor load seconds update] [--spans]

Prints a table: readings, those refused (or kept as invalid), and of the others the share whose
true energy lies inside the stated interval, the largest error and the typical statement.

Left out of the windows is what no reading can show: a load that keeps in step with the counter's
own clock, on a board whose power reading is the very sample that the counter adds up. A span is one
stretch of work, as a training: such boards must be refused there, whatever the load.
"""

from __future__ import annotations

import argparse
import random
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from statistics import median

from tabulate import tabulate

from bench.meters.energy import EnergyReading, EnergyRefused
from tests.meters.energy.boards import SENSORS, Bench, is_within, loads, sensor

UPDATES_S = (0.02, 0.05, 0.1)
SECONDS = (2.5, 5.0, 10.0)
# Every real sensor scatters, and a span is valid only where its readings are seen to be fresh.
SPAN_NOISE_W = 0.5
SAME_SAMPLE, IN_STEP = "the same, power held", "in step with T"


@dataclass(frozen=True)
class Cell:
    """One combination of the grid."""

    sensor: str
    update: float
    load: str
    seconds: float


@dataclass(frozen=True)
class Result:
    """A reading of a cell."""

    cell: Cell
    refused: str | None  # name of the refusal, or of the reason against the reading
    is_held: bool  # whether the truth lies within the stated uncertainty
    error: float = 0.0
    stated: float = 0.0


def cells(updates_s: Iterable[float] = UPDATES_S, is_span: bool = False) -> Iterator[Cell]:
    """Every combination of sensor, update period, load and window length that can be seen."""
    for update_s in updates_s:
        for name in SENSORS:
            for load in loads(update_s):
                if name == SAME_SAMPLE and load == IN_STEP and not is_span:
                    continue
                for seconds in SECONDS:
                    yield Cell(name, update_s, load, seconds)


def run(chosen: Iterable[Cell], seed: int, is_span: bool = False) -> list[Result]:
    """A reading of each cell; boards of one sensor and period are the same board."""
    by_board: dict[tuple[str, float], list[Cell]] = defaultdict(list)
    for cell in chosen:
        by_board[cell.sensor, cell.update].append(cell)
    results = []
    for (name, update_s), mine in by_board.items():
        phase_s = update_s * random.Random(seed).random()
        settings = sensor(name, update_s)
        if is_span:
            settings.setdefault("noise_w", SPAN_NOISE_W)
        bench = Bench(**settings, seed=seed, phase_s=phase_s)
        for cell in mine:
            try:
                read = bench.span if is_span else bench.measure
                reading = read(loads(update_s)[cell.load], cell.seconds)
            except EnergyRefused as refusal:
                results.append(Result(cell, type(refusal).__name__, is_held=True))
                continue
            results.append(judge(cell, bench, reading))
    return results


def judge(cell: Cell, bench: Bench, reading: EnergyReading) -> Result:
    """Reading and truth of a cell."""
    return Result(
        cell,
        None if reading.reason is None else reading.reason.partition(":")[0],
        is_within(reading, bench.truth),
        reading.work_j / bench.truth.work_j - 1,
        reading.uncertainty,
    )


def table(results: Iterable[Result], by: str) -> str:
    """One row for each value of `by`, and one for all."""
    rows: dict[object, list[Result]] = defaultdict(list)
    for result in results:
        rows[getattr(result.cell, by)].append(result)
        rows["all"].append(result)
    lines = []
    for name, found in sorted(rows.items(), key=lambda row: row[0] == "all"):
        valid = [result for result in found if result.refused is None]
        held = sum(result.is_held for result in valid)
        lines.append(
            [
                name,
                len(found),
                len(found) - len(valid),
                f"{held / len(valid):.2%}" if valid else "-",
                f"{max((abs(r.error) for r in valid), default=0):.2%}",
                f"{median([r.stated for r in valid] or [0]):.2%}",
                f"{sum(result.is_held for result in found) / len(found):.1%}",
            ]
        )
    headers = [by, "readings", "refused", "covered", "largest error", "stated", "refused too"]
    return tabulate(lines, headers, tablefmt="github", disable_numparse=True)


def main() -> None:
    """Run the whole grid and print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument(
        "--by",
        default=["sensor", "seconds"],
        nargs="+",
        choices=("sensor", "load", "seconds", "update"),
    )
    parser.add_argument("--spans", action="store_true", help="one stretch of work, as a training")
    chosen = parser.parse_args()
    results = [
        result
        for seed in range(chosen.seeds)
        for result in run(cells(is_span=chosen.spans), seed, chosen.spans)
    ]
    print(*(table(results, by) for by in chosen.by), sep="\n\n")


if __name__ == "__main__":
    main()
