"""Small pictures for the page, as SVG inside of it: bars, and maps of load.

Colours come from the page's style, so that they follow its light and dark mode. A picture has its
numbers as words in its `title`, which is escaped; everything else in it is numbers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from markupsafe import Markup, escape

from bench.records.redaction import printable

HEIGHT, WIDTH = 48, 220  # pixels; many bars or cells are compressed to this width
BAR, CELL, GAP = 14.0, 13.0, 0.2  # gap: share of a bar or cell that stays empty
LEVELS = 5  # of shade
EVEN = 0.5  # shade of an equal load; twice as much is full


def bars(shares: Sequence[float], title: str) -> Markup:
    """One bar per share in 0..1, each on a track that is full height."""
    step = min(BAR, WIDTH / max(1, len(shares)))
    wide = step * (1 - GAP)
    tracks = "".join(
        f"M{n * step:.1f} 0h{wide:.1f}v{HEIGHT}h-{wide:.1f}z" for n in range(len(shares))
    )
    tops = ((n * step, min(1.0, max(0.0, share)) * HEIGHT) for n, share in enumerate(shares))
    filled = "".join(
        f"M{x:.1f} {HEIGHT}h{wide:.1f}v-{top:.1f}h-{wide:.1f}z" for x, top in tops if top > 0
    )
    # One path per class, not one element per bar: a page holds thousands of them.
    body = f'<path class="track" d="{tracks}"/><path class="bar" d="{filled}"/>'
    return _svg(step * len(shares), HEIGHT, title, body)


def load_map(rows: Sequence[Sequence[float]], title: str) -> Markup:
    """One row per gate, one cell per group: the shade is its load relative to an equal one.

    Half shade = equal load, full shade = twice that or more, framed = dead.
    """
    most = max((len(row) for row in rows), default=1)
    step = min(CELL, WIDTH / max(1, most))
    side = step * (1 - GAP)
    paths: dict[str, list[str]] = defaultdict(list)
    for line, row in enumerate(rows):
        for place, load in enumerate(row):
            square = f"M{place * step:.1f} {line * step + 1:.1f}h{side:.1f}v{side:.1f}h-{side:.1f}z"
            paths[_shade(load, len(row))].append(square)
    body = "".join(f'<path class="{shade}" d="{"".join(d)}"/>' for shade, d in paths.items())
    return _svg(step * most, step * len(rows) + 2, title, body)


def _shade(load: float, num_groups: int) -> str:
    """The CSS class of a cell."""
    if load <= 0:
        return "dead"
    # load * num_groups is 1 for an equal load: that is the middle one of LEVELS.
    return f"load{min(LEVELS, 1 + int(EVEN * load * num_groups * LEVELS))}"


def _svg(width: float, height: float, title: str, body: str) -> Markup:
    # Half a pixel to each side, so that the frame of a dead cell is not cut.
    wide, high = f"{width + 1:.0f}", f"{height:.0f}"
    size = f'width="{wide}" height="{high}" viewBox="-0.5 0 {wide} {high}"'
    return Markup(f'<svg role="img" {size}><title>{escape(printable(title))}</title>{body}</svg>')
