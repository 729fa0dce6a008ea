"""The figures show the numbers of the table: hollow or filled markers on equal axes."""

from __future__ import annotations

import struct

import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from bench.records.record import Metric
from bench.report.figures import figures
from bench.report.figures.figures import quality_figure, robustness_figure, speedup_figure
from bench.report.figures.panels import Style, draw_quality, draw_speedup, speedup_marks
from bench.report.figures.robust_panels import draw_flops_under, draw_quality_under

STYLES = {name: Style("#0072B2", "o") for name in ("dense", "moe", "early_exit")}


def axes():
    """Empty axes without a window."""
    return Figure().add_subplot()


def png_size(image: bytes | None) -> tuple[int, int]:
    """Width and height out of a PNG's header."""
    assert image is not None
    assert image[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", image[16:24])
    return width, height


def points_record(make, **fields):
    """An early exit with its default and two other operating points."""

    def at(quality: float, share: float) -> dict[str, Metric]:
        return {
            "infer/quality": Metric(value=quality, unit="accuracy"),
            "infer/flops_share": Metric(value=share, unit="1"),
        }

    points = [
        {"settings": {"threshold": 0.8}, "metrics": {}},
        {"settings": {"threshold": 0.5}, "metrics": at(0.8, 0.3)},
        {"settings": {"threshold": 0.9}, "metrics": at(0.95, 0.7)},
    ]
    return make("early_exit", share=0.5, quality=0.9, points=points, **fields)


def test_marks_are_theory_against_measurement(make, tabulated):
    """Half of the FLOPs is 2x in theory; 1.53x and 1.7x were measured at batch 1 and 64."""
    (table,) = tabulated(make(), make("moe", share=0.5, speedup=1.7))
    marks = [(mark.tau, mark.sigma.value, mark.filled) for mark in speedup_marks(table)]
    assert marks == [(2.0, pytest.approx(1.53), False), (2.0, 1.7, True)]


def test_dense_and_untimed_rows_have_no_mark(make, tabulated):
    """The reference is no point of its own, and an invalid time is not drawn."""
    wrong = Metric(value=9.0, unit="1", valid=False, reason="never steady")
    changed = {f"infer/speedup_b{size}": wrong for size in (1, 64)}
    (table,) = tabulated(make(), make("moe", changed=changed))
    assert list(speedup_marks(table)) == []


def test_batch_1_is_hollow_and_64_filled_on_equal_log_axes(make, tabulated):
    """Markers stand at (tau, sigma); the diagonal is drawn from corner to corner."""
    (table,) = tabulated(make("moe", share=0.5, speedup=1.7))
    panel = axes()
    draw_speedup(panel, table, STYLES)
    assert panel.get_xscale() == panel.get_yscale() == "log"
    assert panel.get_xlim() == panel.get_ylim()
    (diagonal,) = [line for line in panel.lines if line.get_marker() == "None"]
    hollow, filled = [line for line in panel.lines if line.get_marker() == "o"]
    assert list(diagonal.get_xdata()) == list(diagonal.get_ydata()) == list(panel.get_xlim())
    places = [(line.get_xdata()[0], line.get_ydata()[0]) for line in (hollow, filled)]
    assert places == [(2.0, pytest.approx(1.53)), (2.0, 1.7)]
    faces = [to_hex(line.get_markerfacecolor()) for line in (hollow, filled)]
    assert faces == ["#ffffff", "#0072b2"]


def test_intervals_are_error_bars(make, tabulated):
    """1.7 with [1.66, 1.74] is a bar between exactly these."""
    (table,) = tabulated(make("moe", share=0.5, speedup=1.7))
    panel = axes()
    draw_speedup(panel, table, STYLES)
    bars = [list(line.get_ydata()) for line in panel.lines if line.get_marker() == "_"]
    assert pytest.approx([1.66, 1.74]) in bars


def test_every_point_lies_inside_the_axes(make, tabulated):
    """Also a 50x saving and a 20x slowdown, with their intervals."""
    (table,) = tabulated(make("moe", share=0.02, speedup=0.05), make("early_exit", speedup=30.0))
    panel = axes()
    draw_speedup(panel, table, STYLES)
    low, high = panel.get_xlim()
    for mark in speedup_marks(table):
        bounds = (mark.tau, mark.sigma.value, mark.sigma.high)
        assert all(low < bound < high for bound in bounds if bound is not None)


def test_operating_points_make_a_curve_in_the_order_of_cost(make, tabulated):
    """Shares 0.3, 0.5 (default) and 0.7 are joined from cheap to dear."""
    (table,) = tabulated(make(), points_record(make))
    panel = axes()
    draw_quality(panel, table, STYLES)
    curves = [line for line in panel.lines if len(line.get_xdata()) == 3]
    assert [list(curve.get_xdata()) for curve in curves] == [[0.3, 0.5, 0.7]]
    assert [list(curve.get_ydata()) for curve in curves] == [[0.8, 0.9, 0.95]]
    assert panel.get_ylabel() == "accuracy (higher is better)"


def test_the_figures_are_pngs_with_a_panel_per_table(make, tabulated):
    """Two tables make a figure about twice as wide as one."""
    records = [points_record(make, labels={"task": task}) for task in ("digits", "text")]
    for figure in (speedup_figure, quality_figure):
        one, two = figure(tabulated(records[0])), figure(tabulated(*records))
        assert png_size(two)[0] == 2 * png_size(one)[0]


def test_harder_inputs_are_lines_over_severity(make, tabulated, harder):
    """Quality falls from clean to severity 5; FLOPs rise, and garbage stands apart at the right."""
    quality, flops = [80.0, 75, 70, 65, 60, 55], [5e7, 5.2e7, 5.4e7, 5.6e7, 5.8e7, 6e7]
    (table,) = tabulated(make("early_exit", changed=harder(quality, flops)))
    panel = axes()
    draw_quality_under(panel, table, STYLES)
    assert list(panel.lines[0].get_ydata()) == pytest.approx(quality)
    assert [label.get_text() for label in panel.get_xticklabels()] == ["clean", *"12345"]
    panel = axes()
    draw_flops_under(panel, table, STYLES)
    line, garbage = [found for found in panel.lines if found.get_marker() == "o"]
    assert list(line.get_ydata()) == pytest.approx([0.5, 0.52, 0.54, 0.56, 0.58, 0.6])
    assert (list(garbage.get_xdata()), list(garbage.get_ydata())) == ([6], [0.7])
    assert panel.get_ylim()[0] == 0


def test_the_robustness_figure_has_two_panels_per_table(make, tabulated, harder):
    """Two tables make a figure about twice as high as one, and equally wide."""
    changed = harder([80.0] * 6, [5e7] * 6)
    records = [make("moe", changed=changed, labels={"task": task}) for task in ("digits", "text")]
    one = png_size(robustness_figure(tabulated(records[0])))
    two = png_size(robustness_figure(tabulated(*records)))
    assert one[0] == two[0]
    assert 1.8 < two[1] / one[1] < 2.2


def test_many_tables_are_drawn_up_to_a_limit(make, tabulated, monkeypatch):
    """A thousand tables do not make a figure of a thousand panels."""
    monkeypatch.setattr(figures, "MAX_PANELS", 1)
    made = tabulated(*(make("moe", labels={"task": f"t{n}"}) for n in range(3)))
    assert png_size(speedup_figure(made)) == png_size(speedup_figure(made[:1]))


def test_without_anything_to_draw_there_is_no_figure(make, tabulated):
    """Dense alone has no speed-up, and no operating points."""
    made = tabulated(make())
    assert speedup_figure(made) is None
    assert quality_figure(made) is None


def test_names_are_no_formulas(make, tabulated):
    """A dollar sign or a brace in a name is drawn, not typeset."""
    name = r"$\frac{1$ _x"
    assert speedup_figure(tabulated(make(name, labels={"task": "$a_{$"}))) is not None
