"""Published rows find their records: by settings, by operating point, or with the reason."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from bench.papers.rows import Row
from bench.papers.verdict import Verdict
from bench.records.reading import Found
from bench.records.record import Metric, PointResult, Record, missing
from bench.report.paper import lines
from bench.report.paper.lines import CLOSED, EXECUTED, META, lines_of

ROW = Row(
    id="a-cost",
    paper="resnets",
    model="A",
    quantity="cost",
    published="1.8",
    unit="MFLOP",
    convention="2 x MAC",
    input="3x8x8",
    trial="backbone=resnet8",
    point="",
    counted="flops + 2 * 1000",
    surcharge="",
    digits="rounded",
    remark="why",
    evidence="read",
    source="a table",
)
Trial = Callable[..., Found]


@pytest.fixture
def trial(make: Callable[..., Record]) -> Trial:
    """A record of paper "resnets" that executed `flops`."""

    def found(
        flops: Metric,
        *,
        variant: str = "",
        config: Mapping[str, Any] = {},
        points: list[PointResult] = [],  # noqa: B006
        **more: Any,
    ) -> Found:
        record = make(**more)
        labels = record.labels.model_copy(update={"backbone": "resnet8", "variant": variant})
        metrics = {"infer/flops_per_sample": flops, "model/params": Metric(value=10, unit="count")}
        update = {"labels": labels, "config": {"paper": "resnets", **config}, "metrics": metrics}
        return Found(record.model_copy(update={**update, "points": points}), Path("x"))

    return found


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Make the data file hold these rows."""
    return lambda *given: monkeypatch.setattr(lines, "read_rows", lambda: given)


def flop(value: int) -> Metric:
    return Metric(value=value, unit="flop")


def test_a_count_is_converted_and_compared(trial: Trial, rows: Callable[..., None]) -> None:
    """1,799,000 + 2 x 1,000 FLOPs are 1.801 M, 0.056 % above the printed 1.8."""
    rows(ROW)
    (line,) = lines_of([trial(flop(1_799_000))])["resnets"]
    assert (line.counted, line.verdict, line.how) == (
        Fraction("1.801"),
        Verdict.COARSE,
        EXECUTED,
    )
    assert line.percent == pytest.approx(0.0556, abs=1e-3)
    assert line.reason == ""  # a remark explains what is not reproduced


def test_a_row_takes_the_record_with_its_settings_and_no_others(
    trial: Trial, rows: Callable[..., None]
) -> None:
    """Two trials have the row's settings; the one with a further setting is another row's."""
    deep = replace(ROW, id="b-cost", trial="backbone=resnet8 task.shape=[3,8,8]")
    rows(ROW, deep)
    small = trial(flop(1_000_000))
    large = trial(
        flop(2_000_000), variant="task.shape=[3,8,8]", config={"task": {"shape": [3, 8, 8]}}
    )
    found = lines_of([large, small])["resnets"]
    assert [float(line.counted or 0) for line in found] == [1.002, 2.002]


def test_a_row_without_a_method_is_about_the_dense_model(
    trial: Trial, rows: Callable[..., None]
) -> None:
    """A method's record with the same settings is another row's."""
    rows(ROW)
    (line,) = lines_of([trial(flop(1), method="skip_blocks"), trial(flop(1_798_000))])["resnets"]
    assert line.counted == Fraction("1.8")


def test_a_row_may_be_about_one_operating_point(trial: Trial, rows: Callable[..., None]) -> None:
    """The point's FLOPs stand for the default point's."""
    rows(replace(ROW, point="width=0.5"), replace(ROW, id="c", point="width=0.7"))
    points = [
        PointResult(settings={"width": w}, metrics={"infer/flops_per_sample": flop(f)})
        for w, f in ((1.0, 4_000_000), (0.5, 998_000))
    ]
    half, none = lines_of([trial(flop(4_000_000), points=points)])["resnets"]
    assert half.counted == 1
    assert (none.verdict, none.reason) == (
        Verdict.NOT_COMPARABLE,
        "no operating point width=0.7",
    )


def test_what_was_not_counted_says_why(trial: Trial, rows: Callable[..., None]) -> None:
    """No such trial, a metric that is missing, a trial that failed, a row without a count."""
    rows(
        replace(ROW, trial="backbone=resnet20"),
        ROW,
        replace(ROW, id="d", trial="", counted="", remark="no method rigl"),
    )
    found = lines_of([trial(missing("flop", "no pass on the meta device"))])["resnets"]
    assert [line.reason for line in found] == [
        "not run: backbone=resnet20",
        "infer/flops_per_sample: no pass on the meta device",
        "no method rigl",
    ]
    assert {line.verdict for line in found} == {Verdict.NOT_COMPARABLE}
    failed = trial(flop(1), status="failed", reason="out of memory")
    assert lines_of([failed])["resnets"][1].reason == "failed: out of memory"


def test_how_a_number_was_obtained_is_kept(trial: Trial, rows: Callable[..., None]) -> None:
    """Counted on the meta device, or a closed form: 900 x 2,000 = 1.8 M."""
    rows(ROW, replace(ROW, id="e", trial="", counted="900 * 2000"))
    found = lines_of([trial(flop(1_798_000), config={"measure": {"meta": True}})])["resnets"]
    assert [(line.how, line.counted) for line in found] == [
        (META, Fraction("1.8")),
        (CLOSED, Fraction("1.8")),
    ]


def test_other_records_have_no_paper(make: Callable[..., Record]) -> None:
    """A quickstart's report has no published rows."""
    assert lines_of([Found(make(), Path("x"))]) == {}
