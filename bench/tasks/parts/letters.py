"""Ten capital letters of 8 x 8 pixels that look like no digit: what `digits` has never seen.

Drawn by hand about as large as the scikit-learn digits, in strokes about as wide. A pixel of those
counts the ink of 4 x 4 finer ones, so that strokes fade at their edges; so do these.
"""

from __future__ import annotations

import numpy as np

from bench.tasks.parts.canvas import Image

# O, I, S, Z, B, G, Q and their like are left out: they pass for digits.
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


def drawn() -> Image:
    """The letters as digits are given: brightness 0..240, int32 [10, 8, 8]."""
    rows = [[[c == "#" for c in row] for row in glyph.split()] for glyph in GLYPHS.values()]
    sharp = np.array(rows, np.int32) * INK
    edged = np.pad(sharp, ((0, 0), (1, 1), (1, 1)))
    beside = edged[:, :-2, 1:-1] + edged[:, 2:, 1:-1] + edged[:, 1:-1, :-2] + edged[:, 1:-1, 2:]
    return np.minimum(sharp + beside // 8, INK)
