"""One sentence per method: from which size on it pays on this machine.

"on this machine moe pays from 64 tokens x batch 16 at width 192, nowhere at width 96"
"""

from __future__ import annotations

from collections.abc import Sequence

from bench.report.maps.cells import Cell, Map


def sentence(found: Map) -> str:
    """Where the method is faster than dense with 95 % confidence, and between which sizes."""
    start = f"on this machine {found.method} pays"
    total = len(found.cells)
    if all(cell.pays for cell in found.cells):
        low, high = (f(cell.speedup for cell in found.cells) for f in (min, max))
        span = f"{low:.2f} to {high:.2f} times as fast"
        return f"{start} at every measured size, {span} ({_range(found)})"
    if not any(cell.pays for cell in found.cells):
        best = max(found.cells, key=lambda cell: cell.speedup)
        where = f"width {best.size.width}, {_place(best)}"
        return (
            f"{start} at none of {total} measured sizes, at most {best.speedup:.2f} times as fast "
            f"at {where} ({_range(found)})"
        )
    # Widths for which the same is to be said are said together, in the order of the widths.
    said: dict[str, list[int]] = {}
    for width in found.widths:
        said.setdefault(_from(found, width), []).append(width)
    parts = [f"{words} at {_widths(widths)}" for words, widths in said.items()]
    return f"{start} {_joined(parts)} ({_range(found)})"


def _from(found: Map, width: int) -> str:
    """The smallest tokens x batch from which on every measured cell of the width pays."""
    cells = [cell for cell in found.cells if cell.size.width == width]
    corners = [
        cell
        for cell in cells
        if all(
            other.pays
            for other in cells
            if other.size.tokens >= cell.size.tokens and other.batch >= cell.batch
        )
    ]
    if corners:
        return f"from {_place(min(corners, key=_amount))}"
    num_paying = sum(cell.pays for cell in cells)
    return f"at {num_paying} of {len(cells)} sizes" if num_paying else "nowhere"


def _amount(cell: Cell) -> tuple[int, int]:
    """Tokens of a call; of equal ones the shorter inputs."""
    return cell.size.tokens * cell.batch, cell.size.tokens


def _place(cell: Cell) -> str:
    return f"{cell.size.tokens} tokens x batch {cell.batch}"


def _widths(widths: Sequence[int]) -> str:
    return f"width{'' if len(widths) == 1 else 's'} {_joined([str(each) for each in widths])}"


def _joined(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _range(found: Map) -> str:
    """What was measured: nothing is said beyond it."""
    spans = (
        _span("width", found.widths),
        _span("tokens", found.tokens),
        _span("batch", found.batches),
    )
    return f"measured: {', '.join(spans)}"


def _span(name: str, values: Sequence[int]) -> str:
    ends = str(values[0]) if len(values) == 1 else f"{values[0]} to {values[-1]}"
    return f"{name} {ends}"
