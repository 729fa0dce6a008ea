"""The bars of time_parts.png: parts one after the other, withheld where too much is left over."""

from __future__ import annotations

import pytest
from matplotlib.figure import Figure

from bench.records.record import Metric, missing
from bench.report.figures.time_parts import bars, draw_parts, time_parts_figure
from bench.statistics.time_parts import TimeParts

NAMES = ("ideal", "routing", "products", "rest")


def parts_of(*values: float | None, sizes=(1, 64)):
    """Metrics of the four parts at every batch size."""
    return {
        f"infer/pass_{name}_b{size}": missing("1", "not timed")
        if value is None
        else Metric(value=value, unit="1")
        for size in sizes
        for name, value in zip(NAMES, values, strict=True)
    }


def drawn(parts: TimeParts, *, is_largest: bool = False):
    """The axes with one bar."""
    axes = Figure().add_subplot()
    draw_parts(axes, [("moe", parts)], is_largest=is_largest)
    return axes


def spans(axes):
    """From and to of every rectangle."""
    boxes = [patch.get_bbox() for patch in axes.patches]
    return [pytest.approx((box.xmin, box.xmax)) for box in boxes]


def test_parts_follow_one_another_and_end_at_the_total() -> None:
    """0.5 + 0.2 + 0.1 + 0.05 of dense's time."""
    axes = drawn(TimeParts(0.5, 0.2, 0.1, 0.05))
    assert spans(axes) == [(0.0, 0.5), (0.5, 0.7), (0.7, 0.8), (0.8, 0.85)]
    (mark,) = [line for line in axes.lines if line.get_marker() == "|"]
    assert mark.get_xdata()[0] == pytest.approx(0.85)


def test_a_negative_part_is_left_of_zero_and_taken_off_the_end() -> None:
    """Products faster than dense's by 0.1: 0.5 + 0.2 - 0.1 + 0.05."""
    axes = drawn(TimeParts(0.5, 0.2, -0.1, 0.05))
    assert spans(axes) == [(0.0, 0.5), (0.5, 0.7), (-0.1, 0.0), (0.7, 0.75)]
    (mark,) = [line for line in axes.lines if line.get_marker() == "|"]
    assert mark.get_xdata()[0] == pytest.approx(0.65)


@pytest.mark.parametrize(("is_largest", "num_bars"), [(True, 0), (False, 4)])
def test_too_large_a_rest_withholds_the_bar_of_the_largest_batch(
    is_largest: bool, num_bars: int
) -> None:
    """A fifth of the time left over: at batch 1 that is calls, at 64 an explanation is missing."""
    axes = drawn(TimeParts(0.5, 0.3, 0.0, 0.2), is_largest=is_largest)
    assert len(axes.patches) == num_bars
    texts = [text.get_text().strip() for text in axes.texts]
    assert texts == (["withheld: 20% of the time is unexplained"] if is_largest else [])


def test_rows_without_parts_have_no_bar(make, tabulated) -> None:
    """Dense has none, and a row that was not timed has none either."""
    (table,) = tabulated(
        make(),
        make("moe", changed=parts_of(0.5, 0.2, 0.1, 0.05)),
        make("tome", changed=parts_of(None, None, None, None)),
    )
    assert bars(table, 64) == [("moe", TimeParts(0.5, 0.2, 0.1, 0.05))]


def test_the_figure_exists_where_a_row_has_parts(make, tabulated) -> None:
    """Records of earlier versions have none."""
    assert time_parts_figure(tabulated(make(), make("moe"))) is None
    made = time_parts_figure(tabulated(make(), make("moe", changed=parts_of(0.5, 0.2, 0.1, 0.05))))
    assert made is not None
    assert made.startswith(b"\x89PNG")


def test_the_parts_are_in_the_csv(make, tabulated) -> None:
    """One column each, by key."""
    from bench.report.render.csv_export import csv

    text = csv(tabulated(make(), make("moe", changed=parts_of(0.5, 0.2, 0.1, 0.05))))
    assert "infer/pass_products_b64" in text.splitlines()[0]
