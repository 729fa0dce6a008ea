"""time_parts.png: where the time of each method's pass goes, one bar per method and batch size.

A bar starts at 0 and ends at method time / dense time. Its parts follow in a fixed order; a part
below 0, faster than dense, is drawn to the left of 0 and taken off the end. At the largest batch a
bar whose rest exceeds MAX_REST is withheld, and the number stands in its place.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from dataclasses import astuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter

from bench.records.catalogue import IDEAL_TIME, OTHER_TIME, PRODUCT_TIME, ROUTING_TIME
from bench.report.figures.figures import disable_markup
from bench.report.figures.panels import FAINT, INK
from bench.report.tables.column import headline_batches
from bench.report.tables.table import Row, Table
from bench.statistics.time_parts import TimeParts

ENTRIES = (IDEAL_TIME, ROUTING_TIME, PRODUCT_TIME, OTHER_TIME)
LABELS = ("dense time / FLOP ratio", "router, dispatch, combine", "slower products", "rest")
# Okabe and Ito (2008), and a grey: what is left over is no cause.
COLOURS = ("#0072B2", "#D55E00", "#E69F00", "#B8B8B8")
MAX_TABLES, MAX_BARS = 12, 40  # more are too small to read
PANEL_INCHES, BAR_INCHES, MARGIN_INCHES = 4.8, 0.3, 0.95
TITLE_CHARACTERS, NAME_CHARACTERS = 40, 24  # to a line; a name has two lines

Bars = list[tuple[str, TimeParts]]  # by the name of the row


def time_parts_figure(tables: Sequence[Table]) -> bytes | None:
    """time_parts.png of the first MAX_TABLES tables whose rows have parts; None if none has."""
    drawn = [
        (table, found)
        for table in tables
        if any((found := {size: bars(table, size) for size in headline_batches(table)}).values())
    ][:MAX_TABLES]
    if not drawn:
        return None
    num_columns = max(len(found) for _, found in drawn)
    heights = [MARGIN_INCHES + BAR_INCHES * max(map(len, found.values())) for _, found in drawn]
    # Figure without pyplot: pyplot keeps every figure alive and opens a window system.
    figure = Figure(
        figsize=(num_columns * PANEL_INCHES, sum(heights) + 0.4),
        facecolor="white",
        layout="constrained",
    )
    grid = figure.add_gridspec(len(drawn), num_columns, height_ratios=heights)
    for line, (table, found) in enumerate(drawn):
        for column, (size, each) in enumerate(found.items()):
            axes = figure.add_subplot(grid[line, column])
            draw_parts(axes, each, is_largest=size == max(found))
            title = textwrap.fill(f"{table.title}, batch {size}", TITLE_CHARACTERS)
            axes.set_title(title, fontsize=9, color=INK, loc="left")
    handles = [Patch(color=c, label=text) for c, text in zip(COLOURS, LABELS, strict=True)]
    legend = figure.legend(
        handles=handles, loc="outside lower center", ncols=4, fontsize=8, labelcolor=INK
    )
    legend.set_frame_on(False)
    disable_markup(figure)
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=150)
    return image.getvalue()


def bars(table: Table, size: int) -> Bars:
    """The parts of the first MAX_BARS rows that have them at a batch size."""
    found = [(row, parts) for row in table.rows if (parts := _parts(row, size)) is not None]
    # The settings of the default point are in the table.
    return [(row.name if row.point else row.method_name, parts) for row, parts in found[:MAX_BARS]]


def _parts(row: Row, size: int) -> TimeParts | None:
    values = [row.value(entry.at(size)) for entry in ENTRIES]
    numbers = [value for value in values if value is not None]
    return TimeParts(*numbers) if len(numbers) == len(ENTRIES) else None


def draw_parts(axes: Axes, rows: Bars, *, is_largest: bool) -> None:
    """One bar per row from the top down; at the largest batch only what is explained."""
    for place, (_, parts) in enumerate(rows):
        if is_largest and not parts.is_explained:
            axes.text(0, place, _withheld(parts), fontsize=7, va="center", color=INK)
        else:
            _draw_bar(axes, place, parts)
    # Behind the bars, and in every panel, so that panels without a bar have a scale as well.
    axes.axvline(1, color=FAINT, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    axes.axvline(0, color=FAINT, linewidth=1, zorder=1)
    names = [textwrap.shorten(name, 2 * NAME_CHARACTERS, placeholder="...") for name, _ in rows]
    axes.set_yticks(range(len(rows)), [textwrap.fill(name, NAME_CHARACTERS) for name in names])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0%}"))
    axes.set_xlabel("time of a pass, share of dense", fontsize=8, color=INK)
    axes.tick_params(labelsize=7, colors=INK, length=2)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(FAINT)


def _draw_bar(axes: Axes, place: int, parts: TimeParts) -> None:
    above = below = 0.0
    for value, colour in zip(astuple(parts), COLOURS, strict=True):
        axes.barh(place, value, left=above if value > 0 else below, height=0.66, color=colour)
        above, below = above + max(value, 0.0), below + min(value, 0.0)
    # Where parts are negative, the last one does not end at the sum.
    axes.plot([parts.total], [place], marker="|", markersize=12, color=INK, markeredgewidth=1.5)


def _withheld(parts: TimeParts) -> str:
    return f" withheld: {abs(parts.rest) / parts.total:.0%} of the time is unexplained"
