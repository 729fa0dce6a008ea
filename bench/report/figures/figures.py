"""The figures: realised speed-up, quality against cost, robustness.

    speedup.png       theoretical speed-up (x) against the measured one (y), one panel per table
    quality_cost.png  executed FLOPs (x) against quality (y) over the operating points
    robustness.png    quality and executed FLOPs (y) over the severity of corruptions (x)

They do without pyplot: no global state, no window, safe in any process. A method looks the same in
every panel. One legend below names the methods, so that no label covers another.
"""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Callable, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text

from bench.records.catalogue import QUALITY_UNDER
from bench.records.redaction import printable_lines
from bench.report.figures.panels import FAINT, INK, Style, draw_quality, draw_speedup, speedup_marks
from bench.report.figures.robust_panels import draw_flops_under, draw_quality_under
from bench.report.tables.column import headline_batches
from bench.report.tables.robust_cells import SEVERITIES, cell_at, robust_rows
from bench.report.tables.table import DENSE, Table

# Okabe and Ito (2008): distinct also for the colour-blind. Black is for dense.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A4EAB", "#8C6D3F")
MARKERS = "os^DvPX<>"
MAX_PANELS = 12  # more are too small to read, and a large sweep has hundreds of tables
PANEL_INCHES = 4.4  # side of a square panel
TITLE_CHARACTERS = 44  # to a line above a panel
LEGEND_LINE_INCHES = 0.26
ENTRY_INCHES = 1.75  # of a legend entry with a name of ordinary length

# Draws one table into given axes; the styles are by method name.
Draw = Callable[[Axes, Table, dict[str, Style]], None]
Panels = Sequence[tuple[Table, Draw]]


def speedup_figure(tables: Sequence[Table]) -> bytes | None:
    """speedup.png of the first MAX_PANELS tables that have a speed-up; None if none has."""
    drawn = [table for table in tables if any(True for _ in speedup_marks(table))][:MAX_PANELS]
    if not drawn:
        return None
    # Tables may differ in their batch sizes: the legend lists all of them.
    sizes = sorted({size for table in drawn for size in headline_batches(table)})
    faces = [("white", min(sizes))] + [(FAINT, size) for size in sizes[1:]]
    # Hollow markers are the smallest batch, filled ones the larger.
    extra = [_entry(f"batch {size}", FAINT, "o", face) for face, size in faces]
    shown = {mark.row.method_name for table in drawn for mark in speedup_marks(table)}
    return _figure([(table, draw_speedup) for table in drawn], shown, extra)


def quality_figure(tables: Sequence[Table]) -> bytes | None:
    """quality_cost.png of the first MAX_PANELS tables with operating points; None if none has."""
    drawn = [table for table in tables if any(row.point for row in table.rows)][:MAX_PANELS]
    if not drawn:
        return None
    # Defaults are larger and filled, so that the legend has to explain the others alone.
    extra = [_entry("other operating point", FAINT, "o", "white", size=5)]
    shown = {row.method_name for table in drawn for row in table.rows}
    return _figure([(table, draw_quality) for table in drawn], shown, extra)


def robustness_figure(tables: Sequence[Table]) -> bytes | None:
    """robustness.png: two panels per table that measured robustness; None if none did."""
    tested = [
        table
        for table in tables
        if any(cell_at(row, QUALITY_UNDER, SEVERITIES[-1]) for row in robust_rows(table))
    ]
    # Side by side, so that a table's two panels share a line of the grid.
    draws: tuple[Draw, Draw] = (draw_quality_under, draw_flops_under)
    panels = [(table, draw) for table in tested for draw in draws][:MAX_PANELS]
    if not panels:
        return None
    shown = {row.method_name for table, _ in panels for row in robust_rows(table)}
    return _figure(panels, shown, [], num_columns=2 if len(panels) < 8 else 4)


def _figure(
    panels: Panels, shown: set[str], extra: list[Line2D], num_columns: int | None = None
) -> bytes:
    """A grid of panels above one legend, as PNG.

    The number of panels decides the number of columns, where that is not given.
    """
    styles = _styles(shown)
    entries = [_entry(name, s.colour, s.marker, s.colour) for name, s in styles.items()] + extra
    # Four panels fill a square; three to a line would leave a hole.
    num_columns = num_columns or min(len(panels), 2 if len(panels) == 4 else 3)
    num_rows = math.ceil(len(panels) / num_columns)
    width = num_columns * PANEL_INCHES
    # The legend's height must be known before anything is laid out: about 0.075 inches per
    # character at 9 points, and half an inch for the marker.
    longest = max(len(str(entry.get_label())) for entry in entries)
    per_line = max(1, int(width / max(ENTRY_INCHES, 0.5 + 0.075 * longest)))
    legend = LEGEND_LINE_INCHES * math.ceil(len(entries) / per_line) + 0.2
    height = num_rows * PANEL_INCHES + legend
    # Figure without pyplot: pyplot keeps every figure alive and opens a window system.
    figure = Figure(figsize=(width, height), facecolor="white", layout="constrained")
    for number, (table, draw) in enumerate(panels, start=1):
        axes = figure.add_subplot(num_rows, num_columns, number)
        draw(axes, table, styles)
        _style_axes(axes, _title(table, [table for table, _ in panels]))
    legend_box = figure.legend(
        handles=entries, loc="outside lower center", ncols=per_line, fontsize=9, labelcolor=INK
    )
    legend_box.set_frame_on(False)
    disable_markup(figure)  # last: it covers tick labels and legend too
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=150)
    return image.getvalue()


def disable_markup(figure: Figure) -> None:
    """Draw every text as it is: without mathematics, and printable characters only.

    Names come from records: a dollar sign in one must not start a formula.
    """
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        text.set_parse_math(False)
        text.set_text(printable_lines(text.get_text()))


def _style_axes(axes: Axes, title: str) -> None:
    """Write the title and fade everything that is not data."""
    axes.set_title(title, fontsize=10, color=INK, loc="left")
    axes.tick_params(labelsize=8, colors=INK, length=3)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(FAINT)


def _title(table: Table, tables: Sequence[Table]) -> str:
    """What identifies this panel among the others."""
    several = len({(other.hardware, other.profile) for other in tables}) > 1
    title = textwrap.fill(table.title, TITLE_CHARACTERS)
    return title + (f"\n{table.hardware}, {table.profile}" if several else "")


def _styles(names: set[str]) -> dict[str, Style]:
    """Colours and markers by name; both repeat, their combination only after dozens of methods."""
    # Sorted by name: a method keeps its style in all panels of a figure.
    styles = {}
    for number, name in enumerate(sorted(names - {DENSE})):
        # 8 colours and 9 markers have no common divisor: 72 pairs before one repeats.
        marker = MARKERS[number % len(MARKERS)]
        styles[name] = Style(COLOURS[number % len(COLOURS)], marker)
    dense = {DENSE: Style("black", "*")} if DENSE in names else {}
    return dense | styles


def _entry(label: str, colour: str, marker: str, face: str, size: float = 8) -> Line2D:
    """A legend entry; a line without points draws its marker alone."""
    return Line2D(
        [],
        [],
        label=label,
        color=colour,
        marker=marker,
        markerfacecolor=face,
        markeredgewidth=1.5,
        markersize=size,
        linestyle="none",
    )
