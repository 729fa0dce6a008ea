"""The second table of the page: costs at their percentiles, with reasons for missing ones."""

from __future__ import annotations

from bench.records.record import Metric, missing
from bench.report.render.page import page
from bench.report.tables.sheet import tails

SPREAD = {
    "infer/latency_ms_p50": Metric(value=1.25, unit="ms"),
    "infer/latency_ms_p90": missing("ms", "p90 needs 100 inputs, 64 were measured"),
    "infer/throughput_b64": Metric(value=5200.0, unit="samples/s"),
    "infer/flops_per_sample_p50": Metric(value=40e6, unit="flop"),
    "infer/flops_per_sample_p90": Metric(value=90e6, unit="flop"),
    "infer/flops_per_sample_max": Metric(value=100e6, unit="flop"),
    "infer/flops_causal": Metric(value=30e6, unit="flop"),
}


def test_costs_stand_at_their_percentiles(make, tabulated):
    """One unit per column; a metric that no row has gets no column."""
    (table,) = tabulated(make("early_exit", changed=SPREAD))
    found = tails(table)
    shown = dict(
        zip((column.header for column in found.columns), found.lines[0].texts, strict=True)
    )
    assert {header: text.main for header, text in shown.items()} == {
        "latency p50, batch 1 (ms)": "1.25",
        "throughput, batch 64 (k/s)": "5.20",
        "FLOPs per sample, p50 (M)": "40.0",
        "FLOPs per sample, p90 (M)": "90.0",
        "FLOPs per sample, max (M)": "100",
        "FLOPs per sample, causal (M)": "30.0",
    }


def test_a_missing_percentile_has_its_reason(make, tabulated):
    """Where another row has it, a dash refers to the reason."""
    many = {"infer/latency_ms_p90": Metric(value=2.0, unit="ms")}
    html = page("t", tabulated(make(changed=SPREAD | many), make("moe", changed=SPREAD)), {}, [])
    assert "spread of FLOPs over inputs" in html
    assert "p90 needs 100 inputs, 64 were measured" in html


def test_records_without_any_have_no_second_table(make, tabulated):
    """Records of before there were percentiles."""
    (table,) = tabulated(make())
    assert tails(table) is None
    assert "spread of FLOPs over inputs" not in page("t", [table], {}, [])


def test_each_row_has_the_timing_noise_of_its_own_trial(make, tabulated):
    """1.2 % in one trial and 4.4 % in another: the table's line has the larger one only."""
    found = [
        make(name, changed={"infer/noise_floor_b64": Metric(value=noise, unit="1")})
        for name, noise in (("moe", 0.012), ("early_exit", 0.044))
    ]
    (table,) = tabulated(*found)
    sheet = tails(table)
    (at,) = [
        n for n, c in enumerate(sheet.columns) if c.header.startswith("timing noise, batch 64")
    ]
    shown = {line.row.name: line.texts[at].main for line in sheet.lines}
    assert shown == {"moe": "1.20", "early_exit": "4.40"}
    assert table.noise_floors[64].value == 0.044
