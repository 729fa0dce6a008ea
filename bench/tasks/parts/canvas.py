"""Transforms of small grey images in integer arithmetic, identical on every machine.

Brightness is 0..255; geometry is fixed point: angles in degrees, lengths in 1/256 pixel, sines and
cosines rounded to 1/4096. Sums of uniform integers stand in for Gaussian noise.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.int32]  # [N, height, width]
Numbers = NDArray[np.int64]  # [N]

ONE = 256  # a pixel, or a factor of one, in fixed point
COSINES = np.array([round(4096 * math.cos(math.radians(a))) for a in range(360)], np.int32)
SINES = np.array([round(4096 * math.sin(math.radians(a))) for a in range(360)], np.int32)


def warp(
    images: Image, size: int, *, degrees: Numbers, zoom: Numbers, down: Numbers, right: Numbers
) -> Image:
    """Rotate, scale and shift square `images` [N, S, S] onto black canvases [N, size, size].

    `degrees` rotate counter-clockwise; `zoom`, `down` and `right` are in 1/256 (of a factor, of
    canvas pixels). Bilinear interpolation.
    """
    side = images.shape[1] + 2
    # A black edge: clipped coordinates read it without a branch.
    edged = np.pad(images, ((0, 0), (1, 1), (1, 1))).ravel()
    # The inverse transform, from canvas to image: every canvas pixel gets exactly one value.
    cosine, sine = (
        (table[degrees % 360] * ONE // zoom).astype(np.int32)[:, None, None]
        for table in (COSINES, SINES)
    )
    # Pixel centres relative to the middle, which lies between two pixels of an even size.
    grid = (np.arange(size, dtype=np.int32) * 2 - (size - 1)) * (ONE // 2)
    y = grid[None, :, None] - down.astype(np.int32)[:, None, None]
    x = grid[None, None, :] - right.astype(np.int32)[:, None, None]
    middle, last = (side - 1) * ONE // 2, (side - 1) * ONE - 1
    row = np.clip((cosine * y + sine * x >> 12) + middle, 0, last)
    column = np.clip((cosine * x - sine * y >> 12) + middle, 0, last)
    start = np.arange(len(images), dtype=np.int32)[:, None, None] * side**2
    corner = start + (row >> 8) * side + (column >> 8)
    row, column = row & 255, column & 255  # fractions of a pixel
    top = edged[corner] * (ONE - column) + edged[corner + 1] * column
    bottom = edged[corner + side] * (ONE - column) + edged[corner + side + 1] * column
    return top * (ONE - row) + bottom * row >> 16


def cut(images: Image, *, degrees: Numbers, offset: Numbers) -> Image:
    """The part of square `images` [N, S, S] beyond a line: a stroke or two.

    The line's normal points to `degrees`; its distance from the centre is `offset` in 1/256 pixel.
    """
    grid = (np.arange(images.shape[1], dtype=np.int32) * 2 - (images.shape[1] - 1)) * (ONE // 2)
    cosine, sine = (table[degrees % 360][:, None, None] for table in (COSINES, SINES))
    beyond = cosine * grid[None, :, None] + sine * grid[None, None, :] >> 12
    return np.where(beyond > offset[:, None, None], images, 0)


def slope(size: int, *, degrees: Numbers, height: Numbers) -> Image:
    """A brightness gradient: 0 to about 2 * `height` over a canvas, rising towards `degrees`."""
    grid = np.arange(size, dtype=np.int32) * 2 - (size - 1)
    cosine, sine = (table[degrees % 360][:, None, None] for table in (COSINES, SINES))
    rise = (cosine * grid[None, :, None] + sine * grid[None, None, :]) // size
    tall = height.astype(np.int32)[:, None, None]
    return tall + (rise * tall >> 12)


def noise(rng: np.random.Generator, shape: tuple[int, ...]) -> Image:
    """Integers of mean 0 and standard deviation 148, close to Gaussian (sum of four uniforms)."""
    # Floating-point normals may differ between machines in the last bit; integers do not.
    draws = rng.integers(0, 256, (4, *shape), dtype=np.uint8)
    return draws.sum(0, dtype=np.int32) - 510
