"""The panels of robustness.png: quality and executed FLOPs on harder inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from bench.records.catalogue import QUALITY_UNDER
from bench.report.figures.panels import FAINT, INK, Style
from bench.report.tables.cells import Cell
from bench.report.tables.robust_cells import (
    CLEAN,
    SEVERITIES,
    UNANSWERABLE,
    cell_at,
    flops_share,
    quality_title,
    robust_rows,
)
from bench.report.tables.table import Table

HARDER = (CLEAN, *SEVERITIES)  # joined by a line; garbage and unseen stand apart
APART = 1.6  # in severities, between those two: room for their labels


def draw_quality_under(axes: Axes, table: Table, styles: Mapping[str, Style]) -> None:
    """Quality from the clean samples to severity 5, one line per method."""
    for row in robust_rows(table):
        cells = [cell_at(row, QUALITY_UNDER, name) for name in HARDER]
        _draw_line(axes, range(len(HARDER)), cells, styles[row.method_name])
    _label_conditions(axes, range(len(HARDER)), HARDER)
    axes.set_ylabel(quality_title(robust_rows(table)), fontsize=9, color=INK)


def draw_flops_under(axes: Axes, table: Table, styles: Mapping[str, Style]) -> None:
    """Executed FLOPs as a share of dense's; inputs without an answer stand right of a gap."""
    rows = robust_rows(table)
    apart = [name for name in UNANSWERABLE if any(flops_share(row, name) for row in rows)]
    named = [*HARDER, *apart]
    # x positions: the severities at 0 to 5, then each condition without an answer on its own.
    places = [*range(len(HARDER)), *(len(HARDER) + APART * n for n in range(len(apart)))]
    for row in rows:
        style = styles[row.method_name]
        cells = [flops_share(row, name) for name in named]
        joined = len(HARDER)
        _draw_line(axes, places[:joined], cells[:joined], style)
        # Not joined: garbage is no step beyond severity 5.
        for place, cell in zip(places[joined:], cells[joined:], strict=True):
            _draw_line(axes, [place], [cell], style)
    if apart:
        axes.axvline(len(HARDER) - 0.5, color=FAINT, linewidth=0.8, linestyle=(0, (2, 3)))
    _label_conditions(axes, places, named)
    axes.set_ylim(bottom=0)  # shares are compared by length: the axis is not cut
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0%}"))
    axes.set_ylabel("executed FLOPs, share of dense", fontsize=9, color=INK)


def _draw_line(
    axes: Axes, places: Sequence[float], cells: Sequence[Cell | None], style: Style
) -> None:
    """Draw a line through the known cells; a missing one is bridged, not drawn as 0."""
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


def _label_conditions(axes: Axes, places: Sequence[float], named: Sequence[str]) -> None:
    axes.set_xticks(list(places), list(named))
    axes.set_xlim(-0.4, places[-1] + 0.7)  # room for the last label, which is a word
    axes.set_xlabel("severity, mean over the corruptions", fontsize=9, color=INK)
