"""The CSV: numbers for programs, and no text that a spreadsheet would run."""

from __future__ import annotations

import io
import math

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.records.record import Metric
from bench.records.redaction import printable
from bench.report.render.csv_export import csv, neutral


def read_back(text: str) -> pd.DataFrame:
    """The CSV as pandas reads it."""
    return pd.read_csv(io.StringIO(text), keep_default_na=False, na_values=[""])


def test_numbers_stay_numbers_in_plain_units(make, tabulated):
    """Values and bounds stand under the metric's key, unrounded, negative ones included."""
    loss = {"train/loss": Metric(value=-1.25, unit="nat")}
    table = read_back(csv(tabulated(make("moe", share=0.5, speedup=1.4, changed=loss))))
    row = table.iloc[0]
    assert row["infer/flops_per_sample"] == 50e6
    bounds = (row["infer/speedup_b64_low"], row["infer/speedup_b64_high"])
    assert bounds == pytest.approx((1.36, 1.44))
    assert row["train/loss"] == -1.25
    assert table["train/loss"].dtype == float


def test_a_missing_number_is_empty_and_explained(make, tabulated):
    """An empty cell, never 0, and the reason in its own column."""
    row = read_back(csv(tabulated(make("moe")))).iloc[0]
    assert math.isnan(row["infer/energy_j_per_sample"])
    assert "infer/energy_j_per_sample: no NVIDIA GPU" in row["missing"]


def test_every_row_has_its_hardware_task_and_status(make, tabulated):
    """Hardware, task, profile, seeds, point and status are columns; failures are lines too."""
    points = [{"settings": {"k": k}, "metrics": {}} for k in (1, 2)]
    seeds = [make("moe", points=points, labels={"seed": seed}) for seed in (0, 4)]
    table = read_back(csv(tabulated(*seeds, make("dead", status="failed", reason="oom"))))
    assert list(table.status) == ["ok", "ok", "failed"]
    assert list(table.method) == ["moe", "moe", "dead"]
    assert table.iloc[1].point == "k=2"
    assert table.iloc[0].seeds == "0 4"
    assert set(table.hardware) == {"cpu-2x-test"}
    assert set(table.profile) == {"quick"}
    assert table.iloc[2]["missing"] == "oom"


def test_further_scores_are_columns(make, tabulated):
    """BLEU beside exact match, under the record's key."""
    bleu = {"infer/quality_bleu": Metric(value=31.5, unit="BLEU")}
    row = read_back(csv(tabulated(make("moe", changed=bleu)))).iloc[0]
    assert row["infer/quality_bleu"] == 31.5


def test_bounds_stand_beside_their_value(make, tabulated):
    """A reader finds low and high right of the number."""
    header = csv(tabulated(make("moe"))).splitlines()[0]
    assert "infer/speedup_b1,infer/speedup_b1_low,infer/speedup_b1_high" in header


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t=", "\r\n="])
def test_text_that_begins_like_a_formula_is_inert(make, tabulated, start: str):
    """A method called =cmd() is text for a spreadsheet, in cells and in headers."""
    name = f"{start}cmd()"
    wild = {name: Metric(value=1.0, unit="1")}
    text = csv(tabulated(make(name, changed=wild)))
    table = pd.read_csv(io.StringIO(text, newline=""))
    assert table.method[0] == f"'{name.strip()}"
    assert f"'{name.strip()}" in table.columns


@given(st.text())
def test_neutral_text_starts_no_formula(text: str):
    """Whatever comes in, what goes out is one line that begins with no formula's sign."""
    assert not neutral(text).startswith(("=", "+", "-", "@", "\t", "\r", "\n", " "))
    flat = " ".join(printable(text).split())
    assert neutral(text) in (flat, "'" + flat)
    assert len(neutral(text).splitlines()) < 2


@given(st.floats() | st.integers() | st.booleans() | st.none())
def test_neutral_leaves_numbers_alone(value):
    """A negative number is no formula."""
    assert neutral(value) is value
