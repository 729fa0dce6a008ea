"""The panels of robustness.png: quality, and executed FLOPs, as the inputs get harder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from bench.report.figures.panels import FAINT, INK, Style
from bench.report.tables.cells import Cell
from bench.report.tables.robustness import (
    QUALITY,
    SEVERITIES,
    UNANSWERABLE,
    asked_rows,
    at,
    flops_share,
)
from bench.report.tables.rows import Row, Table

HARDER = ("clean", *SEVERITIES)  # joined by a line; garbage and unseen stand apart
APART = 1.6  # severities between those two: room for their words


def draw_quality_under(axes: Axes, table: Table, styles: Mapping[str, Style]) -> None:
    """Quality from the clean samples to severity 5, one line per method."""
    for row in asked_rows(table):
        cells = [at(row, QUALITY, name) for name in HARDER]
        _draw_line(axes, range(len(HARDER)), cells, styles[row.method_name])
    _conditions_axis(axes, range(len(HARDER)), HARDER)
    unit = _unit(asked_rows(table))
    axes.set_ylabel("quality" if unit == "1" else unit, fontsize=9, color=INK)


def draw_flops_under(axes: Axes, table: Table, styles: Mapping[str, Style]) -> None:
    """Executed FLOPs as a share of dense's; inputs without an answer stand right of a gap."""
    rows = asked_rows(table)
    apart = [name for name in UNANSWERABLE if any(flops_share(row, name) for row in rows)]
    named = [*HARDER, *apart]
    places = [*range(len(HARDER)), *(len(HARDER) + APART * n for n in range(len(apart)))]
    for row in rows:
        style = styles[row.method_name]
        cells = [flops_share(row, name) for name in named]
        joined = len(HARDER)
        _draw_line(axes, places[:joined], cells[:joined], style)
        for place, cell in zip(places[joined:], cells[joined:], strict=True):
            _draw_line(axes, [place], [cell], style)
    if apart:
        axes.axvline(len(HARDER) - 0.5, color=FAINT, linewidth=0.8, linestyle=(0, (2, 3)))
    _conditions_axis(axes, places, named)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0%}"))
    axes.set_ylabel("executed FLOPs, share of dense", fontsize=9, color=INK)


def _draw_line(
    axes: Axes, places: Sequence[float], cells: Sequence[Cell | None], style: Style
) -> None:
    known = [
        (place, cell.value)
        for place, cell in zip(places, cells, strict=True)
        if cell is not None and cell.value is not None
    ]
    axes.plot(
        [place for place, _ in known],
        [value for _, value in known],
        color=style.colour,
        marker=style.marker,
        markersize=6,
        linewidth=1.6,
    )


def _conditions_axis(axes: Axes, places: Sequence[float], named: Sequence[str]) -> None:
    axes.set_xticks(list(places), list(named))
    axes.set_xlim(-0.4, places[-1] + 0.7)
    axes.set_xlabel("severity, mean over the corruptions", fontsize=9, color=INK)


def _unit(rows: Sequence[Row]) -> str:
    return rows[0].cells[f"infer/{QUALITY}_clean"].unit
