"""Ten capital letters of 8 x 8 pixels that resemble no digit: out-of-distribution for `digits`.

Drawn by hand with the size and stroke width of the scikit-learn digits. A pixel of those counts the
ink of 4 x 4 finer ones, so that strokes fade at their edges; the same is imitated here.
"""

from __future__ import annotations

import numpy as np

from bench.tasks.parts.canvas import Image

# Without O, I, S, Z, B, G, Q and similar ones, which could be read as digits.
GLYPHS = {
    "A": "...##... ...##... ..#..#.. ..#..#.. ..####.. .#....#. .#....#. .#....#.",
    "E": "..####.. ..#..... ..#..... ..###... ..#..... ..#..... ..#..... ..####..",
    "F": "..####.. ..#..... ..#..... ..###... ..#..... ..#..... ..#..... ..#.....",
    "H": ".#....#. .#....#. .#....#. .######. .#....#. .#....#. .#....#. .#....#.",
    "K": "..#..#.. ..#..#.. ..#.#... ..##.... ..##.... ..#.#... ..#..#.. ..#..#..",
    "M": ".#....#. .##..##. .#.##.#. .#.##.#. .#....#. .#....#. .#....#. .#....#.",
    "N": ".#....#. .##...#. .#.#..#. .#.#..#. .#..#.#. .#..#.#. .#...##. .#....#.",
    "T": ".######. ...##... ...##... ...##... ...##... ...##... ...##... ...##...",
    "W": ".#....#. .#....#. .#....#. .#....#. .#.##.#. .#.##.#. .##..##. .#....#.",
    "X": ".#....#. .#....#. ..#..#.. ...##... ...##... ..#..#.. .#....#. .#....#.",
}
INK = 240  # brightness of a stroke, the brightest of a digit


def draw_letters() -> Image:
    """The letters in the format of the digits: brightness 0..240, int32 [10, 8, 8]."""
    rows = [[[c == "#" for c in row] for row in glyph.split()] for glyph in GLYPHS.values()]
    sharp = np.array(rows, np.int32) * INK
    edged = np.pad(sharp, ((0, 0), (1, 1), (1, 1)))
    # The four neighbours of each pixel: an eighth of their ink spreads into it.
    beside = edged[:, :-2, 1:-1] + edged[:, 2:, 1:-1] + edged[:, 1:-1, :-2] + edged[:, 1:-1, 2:]
    return np.minimum(sharp + beside // 8, INK)
