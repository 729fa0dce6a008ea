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

from bench.records.catalogue import FLOPS, FLOPS_SHARE, NOISE_FLOOR, QUALITY, SPEEDUP

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
        "verdict |"
    )
    yield "|---|---|---|---|---|---|"
    for name, row in rows.drop(BASELINE).iterrows():
        cells = [
            f"`{name}`{_point(row)}",
            f"{row[QUALITY.key]:.2f}",
            _digits(100 * row[FLOPS_SHARE.key]),
            *(_speedup(row, size, floors[size]) for size in BATCH_SIZES),
            _verdict(row),
        ]
        yield f"| {' | '.join(cells)} |"


def _rows() -> pd.DataFrame:
    """The first operating point of every method on TASK, by method.

    Of several variants the cheapest at equal quality; where none is, the first of the report.
    """
    frame = pd.read_csv(REPORT / "table.csv")
    # Rows of the first operating point leave the column empty.
    # A copy in one block: the frame has too many columns to add one to.
    first = frame[(frame.task == TASK) & frame.point.isna()].copy()
    kept = (first.choice == "equal quality").map({True: 0, False: 1})
    order = first.assign(kept=kept).sort_values(["kept", FLOPS_SHARE.key], kind="stable")
    # Named variants of a method share its entry point.
    return order.drop_duplicates("entry_point").sort_values("method").set_index("method")


def _point(row: pd.Series) -> str:
    """The chosen operating point, or the variant: ` @ budget 0.3`.

    Marked where it is only the nearest to dense's quality.
    """
    settings = row.settings_of_point if pd.notna(row.settings_of_point) else ""
    variant = row.variant if pd.notna(row.variant) else ""
    text = ", ".join(filter(None, (variant.replace("=", " "), settings)))
    nearest = " (nearest)" if row.choice == "nearest" else ""
    return f" @ {text}{nearest}" if text else nearest


def _verdict(row: pd.Series) -> str:
    """One verdict where both batch sizes have the same, else each with its batch size."""
    found = {size: row[f"verdict_b{size}"] for size in BATCH_SIZES}
    if len(set(found.values())) == 1:
        return str(found[BATCH_SIZES[0]])
    return "; ".join(f"batch {size}: {verdict}" for size, verdict in found.items())


def _how_measured() -> str:
    """The line below the heading of TASK in table.md: hardware, threads, profile, seeds."""
    lines = (REPORT / "table.md").read_text(encoding="utf-8").splitlines()
    heading = next(n for n, line in enumerate(lines) if line.startswith(f"## {TASK},"))
    return next(line for line in lines[heading + 1 :] if line)


def _speedup(row: pd.Series, size: int, floor: float) -> str:
    """The ratio with its interval; bold where it pays, a tie within the noise."""
    key = SPEEDUP.at(size)
    value, low, high = row[key], row[f"{key}_low"], row[f"{key}_high"]
    if pd.isna(value):
        return "-"
    # The report's rule: neither an interval around 1 nor the machine's noise is a difference.
    text = f"[{_digits(low)}, {_digits(high)}]"
    if low <= 1 <= high or abs(value - 1) <= floor:
        return f"{_digits(value)} {text} tie"
    pays = row[f"verdict_b{size}"] == "pays"
    return f"**{_digits(value)}** {text}" if pays else f"{_digits(value)} {text}"


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
