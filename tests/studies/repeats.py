"""Two runs of one experiment on one machine, hours apart: do their speed-ups agree?

    python -m tests.studies.repeats FIRST SECOND

FIRST and SECOND are folders that `condbench report` has written to (report/table.csv). Prints every
speed-up of both with the interval that the report shows, whether the intervals overlap, and in the
last lines how many do and how many contradict each other: one above 1, the other below.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from tabulate import tabulate

from bench.records.catalogue import SPEEDUP

ROW = ["task", "method", "point"]


class Reading(NamedTuple):
    """A speed-up to dense and its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"

    def overlaps(self, other: Reading) -> bool:
        """Whether the intervals share a value."""
        return self.low <= other.high and other.low <= self.high

    def contradicts(self, other: Reading) -> bool:
        """Whether one interval lies above 1 and the other below."""
        low, high = sorted((self, other))
        return low.high < 1 < high.low


def pairs(
    first: pd.DataFrame, second: pd.DataFrame
) -> Iterator[tuple[list[str], Reading, Reading]]:
    """What both tables have: names and batch size, both readings."""
    keys = [key for key in first.columns if key in second.columns and SPEEDUP.match(key)]
    tables = [table.set_index(ROW) for table in (first, second)]
    for name in tables[0].index.intersection(tables[1].index):
        for key in keys:
            columns = [key, f"{key}_low", f"{key}_high"]
            found = [Reading(*table.loc[name, columns].astype(float)) for table in tables]
            if not any(math.isnan(each.low) for each in found):  # NaN: not timed there
                match = SPEEDUP.match(key)
                assert match is not None
                yield [*map(str, name), match[0]], found[0], found[1]


def main() -> None:
    """Print the table and the counts."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("first", type=Path)
    parser.add_argument("second", type=Path)
    options = parser.parse_args()
    folders = (options.first, options.second)
    first, second = (pd.read_csv(each / "report" / "table.csv") for each in folders)
    found = [each for each in pairs(first, second) if each[0][1] != "dense"]
    rows = [[*name, a, b, "yes" if a.overlaps(b) else "NO"] for name, a, b in found]
    print(tabulate(rows, [*ROW, "batch", "first", "second", "overlap"], tablefmt="github"))
    num_overlapping = sum(a.overlaps(b) for _, a, b in found)
    num_inside = sum(a.low <= b.value <= a.high for _, a, b in found)
    print(f"\n{num_overlapping} of {len(found)} pairs of intervals overlap")
    print(f"{num_inside} of {len(found)} second readings lie in the first interval")
    print(f"{sum(a.contradicts(b) for _, a, b in found)} contradict each other")


if __name__ == "__main__":
    main()
