"""Integer image transforms, on images small enough to check by eye."""

from __future__ import annotations

import numpy as np
import pytest

from bench.tasks.parts import canvas

IMAGE = np.arange(16, dtype=np.int32).reshape(1, 4, 4) * 10


def warped(**changes: int) -> np.ndarray:
    """IMAGE on an 8 x 8 canvas, by default in the middle at its own size."""
    settings = {"degrees": 0, "zoom": canvas.ONE, "down": 0, "right": 0} | changes
    return canvas.warp(IMAGE, 8, **{name: np.array([v]) for name, v in settings.items()})[0]


def test_nothing_changed_is_a_copy_in_the_middle() -> None:
    """No turn, no zoom, no shift: the image in the middle of a black canvas."""
    expected = np.zeros((8, 8), np.int32)
    expected[2:6, 2:6] = IMAGE[0]
    assert np.array_equal(warped(), expected)


def test_a_shift_moves_whole_pixels() -> None:
    """256 is one pixel: down moves rows, right moves columns."""
    assert np.array_equal(warped(down=256), np.roll(warped(), 1, axis=0))
    assert np.array_equal(warped(right=-512), np.roll(warped(), -2, axis=1))


def test_half_a_pixel_is_the_mean_of_two() -> None:
    """A shift by 128 halves each pixel between two columns."""
    doubled = warped() + np.roll(warped(), 1, axis=1)
    assert np.array_equal(warped(right=128), doubled // 2)


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_quarter_turns_are_exact(turns: int) -> None:
    """90 degrees is one quarter turn against the clock, without a rounding error."""
    assert np.array_equal(warped(degrees=90 * turns), np.rot90(warped(), turns))


def test_zoom_enlarges() -> None:
    """At twice its size the 4 x 4 image fills the 8 x 8 canvas."""
    white = np.full((1, 4, 4), 200, np.int32)
    one, two = np.array([0]), np.array([512])
    large = canvas.warp(white, 8, degrees=one, zoom=two, down=one, right=one)[0]
    assert (large[1:-1, 1:-1] == 200).all()


def test_cutting_through_the_centre_keeps_half() -> None:
    """A line through the centre keeps one half, the opposite direction the other."""
    none = np.array([0])
    below = canvas.cut(IMAGE, degrees=none, offset=none)
    above = canvas.cut(IMAGE, degrees=np.array([180]), offset=none)
    assert np.array_equal(below[0, :2], np.zeros((2, 4)))
    assert np.array_equal(below + above, IMAGE)


def test_light_rises_towards_its_direction() -> None:
    """Towards 0 degrees the lower rows are brighter, between 0 and twice the height."""
    light = canvas.slope(8, degrees=np.array([0]), height=np.array([40]))[0]
    assert (np.diff(light[:, 0]) > 0).all()
    assert (light == light[:, :1]).all()
    assert light.min() >= 0
    assert light.max() <= 80


def test_noise_has_the_stated_moments() -> None:
    """Mean 0 and standard deviation 148."""
    # four uniforms over 0..255: sqrt(4 * 65535 / 12) = 147.8
    noise = canvas.noise(np.random.default_rng(0), (100_000,))
    assert abs(noise.mean()) < 2.5  # five standard errors of 148 / sqrt(100,000)
    assert noise.std() == pytest.approx(147.8, rel=0.01)
