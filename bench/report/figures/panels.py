"""The panels of speedup.png and quality_cost.png: one table each, drawn into given axes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from bench.records.catalogue import FLOPS_SHARE, QUALITY, SPEEDUP, TAU
from bench.report.tables.cells import Cell
from bench.report.tables.column import headline_batches, task_unit
from bench.report.tables.table import DENSE, Row, Table

INK, FAINT, SHADE = "#222222", "#8a8a8a", "#f5f3ef"
SHARE = FLOPS_SHARE.key
# Ticks of both axes: dense where most ratios lie.
RATIOS = (0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 4, 6, 8, 12, 16, 32, 64)


@dataclass(frozen=True)
class Style:
    """How a method looks in every panel."""

    colour: str
    marker: str


@dataclass(frozen=True)
class Mark:
    """One operating point of a method at one batch size, in the plane of speed-ups."""

    row: Row
    filled: bool  # the larger batch
    tau: float  # FLOP ratio: dense FLOPs / executed FLOPs
    sigma: Cell  # time ratio: dense time / method time


def speedup_marks(table: Table) -> Iterator[Mark]:
    """Theoretical and measured speed-up of every row but dense, where both were measured."""
    batches = headline_batches(table)
    for row in table.rows:
        for size in batches if row.method != DENSE else ():
            tau, sigma = (row.cells.get(entry.at(size)) for entry in (TAU, SPEEDUP))
            # Zero and below have no place on a logarithmic axis; an untrusted record may hold them.
            if tau is None or sigma is None or (tau.value or 0) <= 0 or (sigma.value or 0) <= 0:
                continue
            larger = size == max(batches) and len(batches) > 1
            yield Mark(row, larger, tau.value or 0.0, sigma)


def draw_speedup(axes: Axes, table: Table, styles: Mapping[str, Style]) -> None:
    """Theory on x, measurement on y, both logarithmic and equally long; the diagonal is parity."""
    marks = list(speedup_marks(table))
    # Both axes have the same ends, intervals included, so that the diagonal is at 45 degrees
    # and every point lies inside; 1 and the start of the shaded half are always visible.
    bounds = (b for m in marks for b in (m.tau, m.sigma.value, m.sigma.low, m.sigma.high))
    ends = [bound for bound in bounds if bound is not None and bound > 0]
    low, high = min([*ends, 0.8]) / 1.15, max([*ends, 1.25]) * 1.15
    axes.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high), aspect="equal")
    axes.axhspan(low, 1, color=SHADE, zorder=0)
    axes.plot([low, high], [low, high], color=FAINT, linewidth=1, zorder=1)
    for mark in marks:
        style = styles[mark.row.method_name]
        _draw_dot(axes, mark.tau, mark.sigma, style, mark.filled, small=bool(mark.row.point))
    _set_ratio_ticks(axes, low, high)
    axes.set_xlabel("theoretical: dense FLOPs / executed FLOPs", fontsize=9, color=INK)
    axes.set_ylabel("measured: dense time / method time", fontsize=9, color=INK)
    _annotate(axes, "slower than dense", (0.985, 1), ("axes fraction", "data"), (0, -4), "top")
    _annotate(axes, "fully realised", (high, high), ("data", "data"), (-12, -4), "bottom", 45)


def _annotate(
    axes: Axes,
    text: str,
    at: tuple[float, float],
    frame: tuple[str, str],
    offset: tuple[int, int],
    side: Literal["top", "bottom"],
    rotation: int = 0,
) -> None:
    """Write faint text that ends at the point `at`, with its `side` towards a line."""
    axes.annotate(
        text,
        at,
        xycoords=frame,
        xytext=offset,
        textcoords="offset points",
        ha="right",
        va=side,
        rotation=rotation,
        rotation_mode="anchor",
        fontsize=8,
        color=FAINT,
    )


def _draw_dot(axes: Axes, x: float, y: Cell, style: Style, filled: bool, small: bool) -> None:
    """Draw a marker with its interval as a bar."""
    # axes.errorbar takes five times as long, and a figure has hundreds of markers.
    if y.low is not None and y.high is not None:
        axes.plot([x, x], [y.low, y.high], color=style.colour, linewidth=1.2, marker="_", zorder=3)
    axes.plot(
        x,
        y.value or 0.0,
        marker=style.marker,
        color=style.colour,
        markerfacecolor=style.colour if filled else "white",
        markeredgewidth=1.5,
        markersize=5 if small else 8,
        zorder=4,
    )


def _set_ratio_ticks(axes: Axes, low: float, high: float) -> None:
    """Set ticks at round ratios, `2x`, instead of powers of ten."""
    ticks = [ratio for ratio in RATIOS if low <= ratio <= high]
    if len(ticks) > 7:  # labels would overlap
        ticks = [ratio for ratio in ticks if math.log2(ratio).is_integer() or ratio < 1]
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(FixedLocator(ticks))
        axis.set_minor_locator(NullLocator())  # a log axis labels minor ticks in scientific form
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}x"))


def draw_quality(axes: Axes, table: Table, styles: Mapping[str, Style]) -> None:
    """Executed share of the dense FLOPs on x, quality on y; a line joins operating points."""
    by_method: dict[str, list[Row]] = {}
    for row in table.rows:
        if row.value(SHARE) is not None and row.value(QUALITY.key) is not None:
            by_method.setdefault(row.method_name, []).append(row)
    for name, rows in by_method.items():
        _draw_curve(axes, rows, styles[name])
    _draw_chance(axes, table)
    axes.set_xlim(left=0)  # shares are compared by length: the axis is not cut
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0%}"))
    axes.set_xlabel("executed FLOPs per sample, share of dense", fontsize=9, color=INK)
    direction = table.quality.direction if table.quality is not None else ""
    better = f" ({direction} is better)" if direction else ""
    axes.set_ylabel((task_unit(table, QUALITY.key) or "quality") + better, fontsize=9, color=INK)


def _draw_curve(axes: Axes, rows: Sequence[Row], style: Style) -> None:
    """Draw a method: its operating points joined in the order of cost, the default larger."""
    ordered = sorted(rows, key=lambda row: row.cells[SHARE].value or 0.0)
    shares = [row.cells[SHARE].value or 0.0 for row in ordered]
    scores = [row.cells[QUALITY.key].value or 0.0 for row in ordered]
    # Thin and behind the markers: between two operating points nothing was measured.
    axes.plot(shares, scores, color=style.colour, linewidth=1.4, alpha=0.7, zorder=2)
    for row, share in zip(ordered, shares, strict=True):
        _draw_dot(axes, share, row.cells[QUALITY.key], style, not row.point, small=bool(row.point))


def _draw_chance(axes: Axes, table: Table) -> None:
    """Draw the chance level, unless it is so far away that the points would merge."""
    chance = table.quality.chance if table.quality is not None else None
    low, high = axes.get_ylim()  # of the points: the panel may grow to three times their span
    if chance is None or not low - (high - low) <= chance <= high + (high - low):
        return
    axes.axhline(chance, color=FAINT, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    _annotate(axes, "chance", (0.985, chance), ("axes fraction", "data"), (0, 3), "bottom")
