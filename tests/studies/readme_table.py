"""The table of README.md: six methods of the published quickstart on one task.

    python -m tests.studies.readme_table            print it
    python -m tests.studies.readme_table --write    and put it into README.md

Reads results/published/quickstart/report (table.csv, and of table.md the line that says how it was
measured), so the published run has to be reported on first. A test compares README.md with it.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from bench.records.catalogue import FLOPS, FLOPS_SHARE, NOISE_FLOOR, QUALITY, REALISED, SPEEDUP

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
# Tracked; the numbers of README.md come from nowhere else.
REPORT = ROOT / "results" / "published" / "quickstart" / "report"
TASK, BASELINE = "digits", "dense"
BEGIN, END = "<!-- quickstart -->\n", "<!-- end of quickstart -->\n"
BATCH_SIZES = 1, 64


def table() -> Iterator[str]:
    """The lines between BEGIN and END."""
    rows = _rows()
    unit, direction = rows.quality_unit.iloc[0], rows.quality_direction.iloc[0]
    arrow = {"higher": "↑", "lower": "↓"}[direction]
    dense = rows.loc[BASELINE]
    # The timing noise of the noisiest trial, as in the report.
    floors = {size: rows[NOISE_FLOOR.at(size)].max() for size in BATCH_SIZES}
    yield f"{TASK}: {_how_measured()}"
    yield (
        f"Dense: {unit} {dense[QUALITY.key]:.2f}, {dense[FLOPS.key] / 1e6:.1f} MFLOP per sample."
    )
    yield ""
    yield (
        f"| method | {unit} {arrow} | {FLOPS_SHARE.title} | "
        f"{SPEEDUP.title_at(1)} | {SPEEDUP.title_at(64)} | "
        f"{REALISED.title_at(64)} |"
    )
    yield "|---|---|---|---|---|---|"
    for name, row in rows.drop(BASELINE).iterrows():
        cells = [
            f"`{name}`",
            f"{row[QUALITY.key]:.2f}",
            _digits(100 * row[FLOPS_SHARE.key]),
            *(_speedup(row, SPEEDUP.at(size), floors[size]) for size in BATCH_SIZES),
            _digits(row[REALISED.at(64)]),
        ]
        yield f"| {' | '.join(cells)} |"


def _rows() -> pd.DataFrame:
    """The default operating point of every method on TASK, by method."""
    frame = pd.read_csv(REPORT / "table.csv")
    # Rows of the default operating point leave the column empty.
    return frame[(frame.task == TASK) & frame.point.isna()].set_index("method")


def _how_measured() -> str:
    """The line below the heading of TASK in table.md: hardware, threads, profile, seeds."""
    lines = (REPORT / "table.md").read_text(encoding="utf-8").splitlines()
    heading = next(n for n, line in enumerate(lines) if line.startswith(f"## {TASK},"))
    return next(line for line in lines[heading + 1 :] if line)


def _speedup(row: pd.Series, key: str, floor: float) -> str:
    """The ratio with its interval; a gain is bold, a difference within the noise is a tie."""
    value, low, high = row[key], row[f"{key}_low"], row[f"{key}_high"]
    if pd.isna(value):
        return "-"
    # The report's rule: neither an interval around 1 nor the machine's noise is a difference.
    text = f"[{_digits(low)}, {_digits(high)}]"
    if low <= 1 <= high or abs(value - 1) <= floor:
        return f"{_digits(value)} {text} tie"
    return f"**{_digits(value)}** {text}" if value > 1 else f"{_digits(value)} {text}"


def _digits(value: float) -> str:
    """Three significant digits."""
    return f"{value:#.3g}".rstrip(".")  # `#` keeps trailing zeros: 1.10, and 100 as "100."


def shown() -> str:
    """What stands between BEGIN and END in README.md."""
    return README.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]


def main() -> None:
    """Print the table, and write it where that is wanted."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--write", action="store_true", help="rewrite README.md")
    made = "\n".join(table()) + "\n"
    print(made, end="")
    if parser.parse_args().write:
        text = README.read_text(encoding="utf-8")
        before, _, rest = text.partition(BEGIN)
        README.write_text(before + BEGIN + made + END + rest.partition(END)[2], encoding="utf-8")


if __name__ == "__main__":
    main()
