"""Maps as CSV, and as lines for the terminal and the page."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from bench.records.redaction import printable_lines
from bench.report.maps.cells import Map
from bench.report.maps.grid import crossings
from bench.report.maps.sentences import sentence
from bench.report.render.csv_export import neutral

COLUMNS = (
    *("method", "hardware", "settings", "width", "tokens", "batch"),
    *("speedup", "speedup_low", "speedup_high", "flop_ratio", "how"),
)
MEASURED, INTERPOLATED = "measured", "interpolated"
ABOUT = (
    "Speed-up: dense time / method time of untrained models in paired rounds; a method pays where "
    "its 95 % interval lies above 1. FLOP ratio: dense FLOPs / executed FLOPs. Where the speed-up "
    "is 1 between two measured sizes is interpolated; beyond the measured sizes nothing is said."
)


def csv(maps: Sequence[Map]) -> str:
    """A line per measured cell, and one per place where the speed-up is interpolated to be 1."""
    lines = []
    for found in maps:
        common = {"method": found.method, "hardware": found.hardware, "settings": found.settings}
        lines += [
            {
                **common,
                "width": cell.size.width,
                "tokens": cell.size.tokens,
                "batch": cell.batch,
                "speedup": cell.speedup,
                "speedup_low": cell.low,
                "speedup_high": cell.high,
                "flop_ratio": cell.tau,
                "how": MEASURED,
            }
            for cell in found.cells
        ]
        lines += [
            {
                **common,
                "width": round(each.width, 1),
                "tokens": round(each.tokens, 1),
                "batch": round(each.batch, 1),
                "speedup": 1.0,
                "how": INTERPOLATED,
            }
            for each in crossings(found)
        ]
    # Names come from records: none may run in a spreadsheet.
    frame = pd.DataFrame(lines, columns=list(COLUMNS)).map(neutral)
    return frame.to_csv(index=False, lineterminator="\n", float_format="%.6g")


def sentences(maps: Sequence[Map]) -> list[str]:
    """One line per map; the hardware and the settings in front where they differ."""
    places = {(found.hardware, found.settings) for found in maps}
    return [
        f"{sentence(found)}" + (f" [{found.hardware}, {found.settings}]" if len(places) > 1 else "")
        for found in maps
    ]


def heading(maps: Sequence[Map]) -> str:
    """Hardware and settings, each once."""
    return "; ".join(dict.fromkeys(f"{each.hardware} ({each.settings})" for each in maps))


def terminal(maps: Sequence[Map]) -> str:
    """The sentences for a terminal."""
    lines = ["where does it pay?", heading(maps), "", *sentences(maps), "", ABOUT]
    return printable_lines("\n".join(lines))  # names of records, which a terminal might obey
