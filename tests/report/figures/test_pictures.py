"""Small pictures: bars as high as their shares, shades as dark as their load."""

from __future__ import annotations

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.report.figures.pictures import HEIGHT, WIDTH, bars, load_map


def test_a_bar_is_as_high_as_its_share():
    """A half fills half of the track, nothing draws nothing, and more than all is all."""
    svg = bars([0.5, 0.0, 1.5], "t")
    filled = re.search(r'class="bar" d="([^"]*)"', svg).group(1)
    assert [float(height) for height in re.findall(r"v-([\d.]+)h", filled)] == [HEIGHT / 2, HEIGHT]
    tracks = re.search(r'class="track" d="([^"]*)"', svg).group(1)
    assert tracks.count("z") == 3


@pytest.mark.parametrize(
    ("load", "shade"),
    [(0.25, "load3"), (0.5, "load5"), (1.0, "load5"), (0.05, "load1"), (0.0, "dead")],
)
def test_shade_is_load_relative_to_an_equal_one(load: float, shade: str):
    """Of four groups: 0.25 = equal load = half shade, twice that is full, none is framed."""
    assert f'class="{shade}"' in load_map([[load, *([0.001] * 3)]], "t")


def test_many_bars_fit_the_width():
    """A hundred layers take no more room than twenty."""
    width = int(re.search(r'width="(\d+)"', bars([0.5] * 100, "t")).group(1))
    assert width <= WIDTH + 1


def test_the_title_is_escaped():
    """A gate's name brings no tag of its own."""
    svg = bars([1.0], "</title><script>alert(1)</script>")
    assert "<script>" not in svg
    assert "&lt;script&gt;" in svg


@given(st.lists(st.floats(-1e300, 1e300), max_size=8))
def test_any_numbers_make_a_picture(values: list[float]):
    """Also none, negative and huge ones; no coordinate is infinite."""
    for svg in (bars(values, "t"), load_map([values], "t")):
        numbers = [float(text) for text in re.findall(r"-?\d+\.?\d*", svg)]
        assert all(math.isfinite(number) for number in numbers)
