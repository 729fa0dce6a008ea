"""Maps from hand-made records: cells, what is measured next, contour, sentences, files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench.records.reading import Found
from bench.records.record import Metric, Record
from bench.report import build
from bench.report.figures.maps import map_figure
from bench.report.maps.cells import Cell, Map, Size, maps_of, size_of
from bench.report.maps.grid import coarse, crossings, filled, to_refine
from bench.report.maps.render import csv, terminal
from bench.report.maps.sentences import sentence
from bench.report.maps.waves import coarse_trials, refining_trials

Sized = Callable[..., Record]


def a_map(speedups: dict[tuple[int, int, int], float], spread: float = 0.0) -> Map:
    """A map of `moe` from speed-ups by width, tokens and batch, each known to +- `spread`."""
    cells = [
        Cell(Size(width, tokens), batch, value, value - spread, value + spread, 1.5)
        for (width, tokens, batch), value in sorted(speedups.items())
    ]
    return Map("moe", "cpu-2x-test", "2 threads, fp32, routing=balanced", cells)


@pytest.fixture
def sized(make) -> Sized:
    """`sized("moe", 96, 16, {1: 0.5, 16: 2.0})`: a record of that width, tokens and speed-ups."""

    def build_record(
        method: str, width: int, pixels: int, speedups: dict[int, float], **measure: Any
    ) -> Record:
        record = make(method, started=1000.0 + width + pixels, labels={"task": "shapes"})
        ratios = {
            f"infer/speedup_b{b}": Metric(value=v, unit="1", low=v - 0.01, high=v + 0.01)
            for b, v in speedups.items()
        }
        taus = {f"infer/tau_b{b}": Metric(value=1.5, unit="1") for b in speedups}
        others = {k: m for k, m in record.metrics.items() if "speedup" not in k and "tau" not in k}
        config = {
            **record.config,
            "backbone": {"dim": width, "image_stride": 4, "depth": 4},
            "task": {"kind": "image", "shape": [3, pixels, pixels]},
            "measure": {**record.config["measure"], "routing": "balanced", **measure},
        }
        return record.model_copy(update={"config": config, "metrics": others | ratios | taus})

    return build_record


def as_found(*records: Record) -> list[Found]:
    return [Found(record, Path(f"somewhere/{n}")) for n, record in enumerate(records)]


def test_a_size_is_the_width_and_the_tokens_without_a_class_token() -> None:
    """Patches of 4 x 4 of 32 x 32 pixels are 64 tokens; 197 of a DeiT are 196 and a class token."""
    patches = {"dim": 192, "image_stride": 4}
    assert size_of({"backbone": patches, "task": {"kind": "image", "shape": [3, 32, 32]}}) == Size(
        192, 64
    )
    deit = {"backbone": {"dim": 192, "image_stride": 16}, "task": {"resolution": 224}}
    assert size_of(deit) == Size(192, 196)
    assert size_of({"backbone": {"dim": 64}, "task": {"kind": "tokens", "shape": [128]}}) == Size(
        64, 128
    )


@pytest.mark.parametrize(
    "config",
    [
        {"backbone": {"dim": 192}, "task": {"robustness": False}},
        {"backbone": {"depth": 20}, "task": {"resolution": 224}},
        {"backbone": None, "task": {"shape": "all"}},
    ],
    ids=["data of its own", "no width", "damaged"],
)
def test_other_trials_have_no_size(config: dict[str, Any]) -> None:
    """They are on no map."""
    assert size_of(config) is None


def test_records_of_one_method_and_settings_are_a_map(sized: Sized) -> None:
    """Dense is on none, another routing has its own, a method of one size has none."""
    found = as_found(
        sized("moe", 96, 16, {1: 0.5, 16: 2.0}),
        sized("moe", 192, 16, {1: 0.8}),
        sized("moe", 96, 16, {1: 0.4}, routing="hot"),
        sized("moe", 192, 16, {1: 0.6}, routing="hot"),
        sized("topk_ffn", 96, 16, {1: 0.6}),
        sized("dense", 96, 16, {1: 1.0}),
        sized("dense", 192, 16, {1: 1.0}),
    )
    balanced, hot = maps_of(found)
    assert [(c.size, c.batch, c.speedup, c.tau) for c in balanced.cells] == [
        (Size(96, 16), 1, 0.5, 1.5),
        (Size(96, 16), 16, 2.0, 1.5),
        (Size(192, 16), 1, 0.8, 1.5),
    ]
    assert balanced.settings == "2 threads, fp32, routing=balanced"
    assert hot.settings == "2 threads, fp32, routing=hot"


SIZES = [Size(w, t) for w in (96, 144, 192, 288, 384) for t in (16, 36, 64)]


def test_the_coarse_grid_is_every_second_size() -> None:
    """Three of five widths and two of three numbers of tokens; of four the last one too."""
    assert coarse(SIZES) == {Size(w, t) for w in (96, 192, 384) for t in (16, 64)}
    assert coarse([Size(w, 1) for w in (1, 2, 3, 4)]) == {Size(1, 1), Size(3, 1), Size(4, 1)}


def test_sizes_between_both_sides_of_one_come_next() -> None:
    """Slower at width 96, faster from 192 on: what is missing between those two, and no more."""
    cells = [Cell(size, 1, 0.8 if size.width == 96 else 1.2) for size in sorted(coarse(SIZES))]
    # Width 144 with 16 and 64 tokens lies between two cells, with 36 amid four; width 96 and 192
    # with 36 tokens lie between equal ones.
    assert to_refine(cells, SIZES) == {Size(144, 16), Size(144, 36), Size(144, 64)}
    assert to_refine([Cell(c.size, 1, 1.2) for c in cells], SIZES) == set()


def test_one_batch_size_is_enough_to_refine() -> None:
    """At batch 1 nothing crosses, at batch 16 between the two widths."""
    cells = [
        *(Cell(Size(w, 16), 1, 0.5) for w in (96, 192)),
        *(Cell(Size(w, 16), 16, s) for w, s in ((96, 0.9), (192, 1.1))),
    ]
    assert to_refine(cells, [Size(w, 16) for w in (96, 144, 192, 288)]) == {Size(144, 16)}


def test_the_contour_is_interpolated_in_logarithms() -> None:
    """1/2 at 16 tokens and 2 at 64: 1 is halfway in logarithms, at 32; 1/4 and 2 at 2/3: 40.3.

    16 x 4^(2/3) = 16 x 2.52 = 40.3.
    """
    found = a_map({(96, 16, 1): 0.5, (96, 64, 1): 2.0, (192, 16, 1): 0.25, (192, 64, 1): 2.0})
    places = [(round(c.width), round(c.tokens, 1), c.batch) for c in crossings(found)]
    assert places == [(96, 32.0, 1), (192, 40.3, 1)]


def test_batches_are_an_axis_too() -> None:
    """1/2 at batch 1 and 2 at batch 16: 4."""
    (only,) = crossings(a_map({(96, 16, 1): 0.5, (96, 16, 16): 2.0}))
    assert only.batch == pytest.approx(4)


def test_nothing_is_extrapolated() -> None:
    """Two measured corners of a 3 x 3 grid fill what is between them on their line, and no more."""
    found = a_map({(1, 1, 1): 0.5, (4, 1, 1): 2.0})
    logs = filled(found, 1, [1, 2, 4], [1, 2, 4])
    assert set(logs) == {Size(1, 1), Size(2, 1), Size(4, 1)}
    assert logs[Size(2, 1)] == pytest.approx(0)
    corners = a_map({(w, t, 1): 2.0 * w for w in (1, 4) for t in (1, 4)})
    # The middle of four corners of 2, 2, 8 and 8 is their geometric mean, 4.
    assert len(filled(corners, 1, [1, 2, 4], [1, 2, 4])) == 9
    assert 2.718281828 ** filled(corners, 1, [1, 2, 4], [1, 2, 4])[Size(2, 2)] == pytest.approx(4)


RANGE = "(measured: width 96 to 192, tokens 16 to 64, batch 1 to 16)"


def grid(slow: set[tuple[int, int, int]], spread: float = 0.0) -> Map:
    """Eight cells at 1.2, those in `slow` at 0.8."""
    places = [(w, t, b) for w in (96, 192) for t in (16, 64) for b in (1, 16)]
    return a_map({place: 0.8 if place in slow else 1.2 for place in places}, spread)


@pytest.mark.parametrize(
    ("slow", "expected"),
    [
        # Width 96 pays with 64 tokens at batch 16 alone (1,024 tokens). Width 192 pays from 16
        # tokens at batch 16 (256) and from 64 at batch 1 (64): the fewest tokens of a call.
        (
            {(96, 16, 1), (96, 16, 16), (96, 64, 1), (192, 16, 1)},
            "from 64 tokens x batch 16 at width 96 and from 64 tokens x batch 1 at width 192",
        ),
        # Nothing pays at width 96; at 192 all does.
        (
            {(96, t, b) for t in (16, 64) for b in (1, 16)},
            "nowhere at width 96 and from 16 tokens x batch 1 at width 192",
        ),
        # The largest call is slow: no size from which on everything pays.
        (
            {(96, 64, 16), (192, 64, 16)},
            "at 3 of 4 sizes at widths 96 and 192",
        ),
    ],
)
def test_a_sentence_names_where_it_begins_to_pay(
    slow: set[tuple[int, int, int]], expected: str
) -> None:
    """Per width the smallest call from which on every measured one is faster."""
    assert sentence(grid(slow)) == f"on this machine moe pays {expected} {RANGE}"


def test_a_sentence_for_everywhere_and_for_nowhere() -> None:
    """1.2 with an interval from 1.1 pays, from 0.9 it does not: undecided is not faster."""
    assert sentence(grid(set(), 0.1)) == (
        f"on this machine moe pays at every measured size, 1.20 to 1.20 times as fast {RANGE}"
    )
    assert sentence(grid(set(), 0.3)) == (
        "on this machine moe pays at none of 8 measured sizes, at most 1.20 times as fast at width "
        f"96, 16 tokens x batch 1 {RANGE}"
    )


def test_the_csv_marks_what_is_interpolated() -> None:
    """Two measured cells and the place between them."""
    lines = csv([a_map({(96, 16, 1): 0.5, (96, 64, 1): 2.0}, 0.1)]).splitlines()
    assert lines[1].endswith(",96,16,1,0.5,0.4,0.6,1.5,measured")
    assert lines[3].endswith(",96,32,1,1,,,,interpolated")
    assert len(lines) == 4


def test_a_figure_is_drawn_with_and_without_a_contour() -> None:
    """A PNG; none without a map. A single row of sizes has no contour."""
    assert map_figure([]) is None
    for found in (grid({(96, 16, 1)}), grid(set()), a_map({(96, 16, 1): 0.5, (96, 64, 1): 2.0})):
        image = map_figure([found])
        assert image is not None
        assert image.startswith(b"\x89PNG")


def test_a_report_of_sizes_writes_the_map(sized: Sized, tree) -> None:
    """map.png, map.csv and a section of the page; the terminal gets sentences, not tables."""
    folder = tree(sized("moe", 96, 16, {1: 0.5, 16: 2.0}), sized("moe", 192, 16, {1: 0.8, 16: 3.0}))
    made = build([folder])
    names = {path.name for path in made.paths}
    assert {"map.png", "map.csv"} <= names
    line = "moe pays from 16 tokens x batch 16 at widths 96 and 192"
    assert line in made.text
    assert line in (folder / "report" / "report.html").read_text(encoding="utf-8")


def test_an_ordinary_report_has_no_map(make, tree) -> None:
    """Nor keeps one of an earlier report."""
    folder = tree(make(), make("moe", share=0.5, speedup=1.5))
    stale = folder / "report" / "map.csv"
    stale.parent.mkdir()
    stale.write_text("old")
    made = build([folder])
    assert not stale.exists()
    assert "map.png" not in {path.name for path in made.paths}


def test_names_of_records_do_not_reach_the_terminal_raw() -> None:
    """An escape sequence in a method's name is not printed."""
    found = a_map({(96, 16, 1): 0.5, (96, 64, 1): 2.0})
    odd = Map("mo\x1b[31me", found.hardware, found.settings, found.cells)
    assert "\x1b" not in terminal([odd])


def test_a_budget_runs_the_coarse_grid_first_and_then_the_contour(sized: Sized) -> None:
    """Three widths: the outer two, small first, without dense; then the middle of moe alone.

    moe is slower at 96 and faster at 384, tome faster at both.
    """
    records = [
        sized(method, width, 16, {1: speedup})
        for width, by_method in (
            (96, (0.8, 1.1, 1.0)),
            (192, (1.0, 1.0, 1.0)),
            (384, (1.2, 1.3, 1.0)),
        )
        for method, speedup in zip(("moe", "tome", "dense"), by_method, strict=True)
    ]
    trials = [SimpleNamespace(labels=r.labels, config=r.config) for r in records]

    def names(groups: list[list[Any]]) -> list[list[tuple[str, int]]]:
        return [[(t.labels.method, t.config["backbone"]["dim"]) for t in g] for g in groups]

    first = coarse_trials(trials)
    assert names(first) == [[("moe", 96), ("tome", 96)], [("moe", 384), ("tome", 384)]]
    measured = [r for r in records if r.config["backbone"]["dim"] != 192]
    assert names(refining_trials(trials, as_found(*measured))) == [[("moe", 192)]]


def test_trials_without_a_size_come_first(sized: Sized, make) -> None:
    """A run may hold others beside a map."""
    records = [sized("moe", 96, 16, {1: 0.8}), make("early_exit")]
    trials = [SimpleNamespace(labels=r.labels, config=r.config) for r in records]
    assert [t.labels.method for group in coarse_trials(trials) for t in group] == [
        "early_exit",
        "moe",
    ]
