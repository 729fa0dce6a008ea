"""The letters of the unseen class."""

from __future__ import annotations

import numpy as np

from bench.tasks.parts import letters


def test_letters_have_the_format_of_digits() -> None:
    """Ten different images of 8 x 8 pixels, brightness 0 to 240."""
    drawn = letters.draw_letters()
    assert drawn.shape == (len(letters.GLYPHS), 8, 8) == (10, 8, 8)
    assert len(np.unique(drawn, axis=0)) == 10
    assert (drawn.min(), drawn.max()) == (0, 240)


def test_ink_runs_a_little_beyond_its_stroke() -> None:
    """A stroke has all its ink; a pixel beside one of its pixels has 240 / 8 = 30."""
    tee = letters.draw_letters()[list(letters.GLYPHS).index("T")]
    assert tee[0].tolist() == [30, 240, 240, 240, 240, 240, 240, 30]
    assert tee[1].tolist() == [0, 30, 60, 240, 240, 60, 30, 0]  # the bar's ink, and the stem's
    assert tee[5].tolist() == [0, 0, 30, 240, 240, 30, 0, 0]
