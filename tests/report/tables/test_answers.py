"""The verdict on a row, and the names of chosen points."""

from __future__ import annotations

from io import StringIO
from typing import Any

import pandas as pd
import pytest

from bench.records.record import UPPER_BOUND, Metric, PointResult
from bench.report.render.csv_export import csv
from bench.report.tables.answers import answer

CHOSEN = {"operating_points": {"kind": "equal quality", "tolerance": 0.02}}


def difference(value: float, half: float = 0.004) -> dict[str, Metric]:
    metric = Metric(value=value, unit="accuracy", low=value - half, high=value + half)
    return {"infer/quality_vs_dense": metric}


@pytest.mark.parametrize(
    ("speedup", "changed", "verdict"),
    [
        (1.8, difference(0.0), "pays"),
        (1.8, difference(-0.05), "faster but worse"),
        (0.5, difference(0.05), "better but slower"),
        (0.5, difference(0.0), "no gain"),
        (1.8, difference(0.0, 0.5), "cannot tell"),
    ],
)
def test_every_verdict(
    make: Any, tabulated: Any, speedup: float, changed: Any, verdict: str
) -> None:
    """One function decides: speed-up +-0.04, and quality with a tolerance of 1 % of 0.91."""
    (table,) = tabulated(make(), make("moe", share=0.5, speedup=speedup, changed=changed))
    found = answer(table, table.rows[1], 64)
    assert found is not None
    assert found.verdict == verdict
    assert bool(found.reason) == (verdict == "cannot tell")
    assert answer(table, table.rows[0], 64) is None  # dense beside itself


def test_the_tolerance_is_that_of_the_trial(make: Any, tabulated: Any) -> None:
    """0.015 worse: too much for 1 % of 0.91, not for the 0.02 that the trial was measured with."""
    record = make("moe", share=0.5, speedup=1.8, changed=difference(-0.015))
    (table,) = tabulated(make(), record)
    assert answer(table, table.rows[1], 64).verdict == "faster but worse"  # type: ignore[union-attr]
    (table,) = tabulated(make(), record.model_copy(update={"diagnostics": CHOSEN}))
    assert answer(table, table.rows[1], 64).verdict == "pays"  # type: ignore[union-attr]


def test_an_upper_bound_and_noise_do_not_pay(make: Any, tabulated: Any) -> None:
    """Identical models that differed by 90 % leave 1.8 undecided."""
    (table,) = tabulated(make(), make("oracle", share=0.5, speedup=1.8, notes=[UPPER_BOUND]))
    assert answer(table, table.rows[1], 64).verdict == "oracle upper bound"  # type: ignore[union-attr]
    noisy = {"infer/noise_floor_b64": Metric(value=0.9, unit="1")}
    (table,) = tabulated(make(), make("moe", share=0.5, speedup=1.8, changed=noisy))
    found = answer(table, table.rows[1], 64)
    assert found is not None
    assert (found.verdict, found.reason) == ("cannot tell", "the speed-up is within timing noise")


def test_names_of_chosen_points(make: Any, tabulated: Any) -> None:
    """The first point says why it is first; one of another capacity than trained is marked."""
    base = make("mod", share=0.5, speedup=1.8)
    points = [
        PointResult(settings={"capacity": c}, metrics=base.metrics) for c in (0.5, 0.25, 0.125)
    ]
    config = {**base.config, "method": {"capacity": 0.25}}
    update = {"points": points, "diagnostics": CHOSEN, "config": config}
    (table,) = tabulated(make(), base.model_copy(update=update))
    first, trained, other = table.rows[1:]
    assert first.name == "mod @ equal quality: capacity 0.5"
    assert trained.name == "mod @ capacity 0.25"
    assert (first.trained_with, trained.trained_with) == ("capacity 0.25", "")
    assert other.remarks == ("trained with capacity 0.25",)
    nearest = {"operating_points": {"kind": "nearest", "tolerance": 0.02}}
    (table,) = tabulated(make(), base.model_copy(update={**update, "diagnostics": nearest}))
    assert table.rows[1].name == "mod @ nearest quality: capacity 0.5"


def test_the_cheapest_variant_that_keeps_quality_is_named(make: Any, tabulated: Any) -> None:
    """Of 25 % (nearest quality), 34 and 50 % (both kept): 34 %, as a curve's point would be."""

    def shrunk(name: str, variant: str, share: float, kind: str) -> Any:
        made = make(name, share=share, speedup=1.8, labels={"variant": variant})
        made.provenance["entry_points"] = {"method": "methods.controls.shrunk_dense:ShrunkDense"}
        return made.model_copy(update={"diagnostics": {"operating_points": {"kind": kind}}})

    (table,) = tabulated(
        make(),
        shrunk("shrunk", "share=0.25", 0.25, "nearest"),
        shrunk("shrunk", "share=0.5", 0.5, "equal quality"),
        shrunk("shrunk_third", "", 0.34, "equal quality"),
    )
    assert [row.name for row in table.rows[1:]] == [
        "shrunk,share=0.25",
        "shrunk,share=0.5",
        "shrunk_third @ equal quality",
    ]


def test_all_seeds_share_a_test_set(make: Any, tabulated: Any) -> None:
    """Seeds that agree to 0.0001 do not resolve more than their common test samples: +-0.004."""
    seeds = [make(quality=q, labels={"seed": s}) for s, q in enumerate((0.91, 0.92, 0.93))]
    moes = [
        make("moe", share=0.5, quality=q, labels={"seed": s})
        for s, q in enumerate((0.9101, 0.9201, 0.9302))
    ]
    (table,) = tabulated(*seeds, *moes)
    cell = table.rows[1].cells["infer/quality_vs_dense"]
    assert cell.value == pytest.approx(0.000133, abs=1e-6)
    assert (cell.high or 0) - (cell.low or 0) == pytest.approx(0.008)


def test_the_csv_has_verdicts(make: Any, tabulated: Any) -> None:
    """One column per batch size, and why the first point is first."""
    record = make("moe", share=0.5, speedup=1.8).model_copy(update={"diagnostics": CHOSEN})
    found = pd.read_csv(StringIO(csv(tabulated(make(), record)))).set_index("method").loc["moe"]
    assert [found[key] for key in ("verdict_b64", "verdict_b1")] == ["pays", "pays"]
    assert found["choice"] == "equal quality"
