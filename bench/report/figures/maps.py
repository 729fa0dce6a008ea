"""map.png: one row of panels per method, one panel per batch size, width against tokens.

A square is a measured size with its speed-up and, below, the FLOP ratio. The dashed line is where
the speed-up is 1, interpolated between measured sizes and drawn nowhere beyond them.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from bench.report.figures.figures import disable_markup
from bench.report.figures.panels import FAINT, INK
from bench.report.maps.cells import Cell, Map, Size
from bench.report.maps.grid import filled

MAX_MAPS = 24  # more rows are too small to read
COLUMN_INCHES, CELL_INCHES, MARGIN_INCHES = 0.62, 0.42, 0.75
HALF, FULL = math.log(0.5), math.log(2.0)  # the speed-ups of the darkest red and blue
COLOURS = "RdBu"


def map_figure(maps: Sequence[Map]) -> bytes | None:
    """map.png of the first MAX_MAPS maps; None without one."""
    drawn = maps[:MAX_MAPS]
    if not drawn:
        return None
    batches = sorted({batch for found in drawn for batch in found.batches})
    widths = sorted({width for found in drawn for width in found.widths})
    tokens = sorted({number for found in drawn for number in found.tokens})
    # Figure without pyplot: pyplot keeps every figure alive and opens a window system.
    figure = Figure(
        figsize=(
            len(batches) * (COLUMN_INCHES * len(widths) + MARGIN_INCHES),
            len(drawn) * (CELL_INCHES * len(tokens) + MARGIN_INCHES),
        ),
        facecolor="white",
        layout="constrained",
    )
    places = {(found.hardware, found.settings) for found in drawn}
    for row, found in enumerate(drawn):
        where = f"\n{found.hardware}, {found.settings}" if len(places) > 1 else ""
        for column, batch in enumerate(batches):
            number = row * len(batches) + column + 1
            axes = figure.add_subplot(len(drawn), len(batches), number)
            _draw(axes, found, batch, widths, tokens)
            axes.set_title(
                f"{found.method}, batch {batch}{where}", fontsize=9, color=INK, loc="left"
            )
    disable_markup(figure)
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=130)
    return image.getvalue()


def _draw(axes: Axes, found: Map, batch: int, widths: Sequence[int], tokens: Sequence[int]) -> None:
    """One panel. Sizes are at equal distances: both axes are nearly logarithmic."""
    for size, cell in found.at(batch).items():
        _draw_cell(axes, widths.index(size.width), tokens.index(size.tokens), cell)
    _draw_contour(axes, found, batch, widths, tokens)
    axes.set(xlim=(-0.5, len(widths) - 0.5), ylim=(-0.5, len(tokens) - 0.5))
    axes.set_xticks(range(len(widths)), [str(each) for each in widths])
    axes.set_yticks(range(len(tokens)), [str(each) for each in tokens])
    axes.set_xlabel("width", fontsize=8, color=INK)
    axes.set_ylabel("tokens", fontsize=8, color=INK)
    axes.tick_params(labelsize=7, colors=INK, length=2)
    for spine in axes.spines.values():
        spine.set_color(FAINT)


def _draw_cell(axes: Axes, x: int, y: int, cell: Cell) -> None:
    from matplotlib import colormaps

    log = math.log(cell.speedup)
    colour = colormaps[COLOURS](TwoSlopeNorm(0.0, HALF, FULL)(min(max(log, HALF), FULL)))
    axes.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=colour, edgecolor="white"))
    # White on the darkest squares only.
    ink = "white" if abs(log) > 0.75 * FULL else INK
    weight = "bold" if cell.pays else "normal"
    axes.text(
        x,
        y + 0.16,
        f"{cell.speedup:.2f}x",
        ha="center",
        va="center",
        fontsize=7,
        color=ink,
        weight=weight,
    )
    if cell.tau is not None:
        axes.text(
            x, y - 0.24, f"of {cell.tau:.2f}", ha="center", va="center", fontsize=5.5, color=ink
        )


def _draw_contour(
    axes: Axes, found: Map, batch: int, widths: Sequence[int], tokens: Sequence[int]
) -> None:
    """The line of speed-up 1, where there is one on a grid of at least 2 x 2 sizes."""
    logs = filled(found, batch, widths, tokens)
    grid = np.array([[logs.get(Size(w, t), math.nan) for w in widths] for t in tokens])
    known = np.ma.masked_invalid(grid)
    # matplotlib warns where a level is not crossed, and takes no single row.
    if min(grid.shape) < 2 or known.count() == 0 or not known.min() < 0 < known.max():
        return
    x, y = np.arange(len(widths)), np.arange(len(tokens))
    axes.contour(x, y, known, levels=[0.0], colors=[INK], linestyles="dashed", linewidths=1.2)
