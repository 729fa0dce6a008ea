"""What only generating has: columns per token, in a table that mixes with no other workload."""

from __future__ import annotations

import io

import pandas as pd
import pytest

from bench.records.record import Metric, missing
from bench.report.render.csv_export import csv
from bench.report.render.latex import latex
from bench.report.render.text import markdown
from bench.report.tables.sheet import sheet


@pytest.fixture
def generating(make):
    """`generating("moe", ...)`: a record of the workload, with 24 tokens after a prompt of 16."""

    def build(method: str = "dense", changed=None, **fields):
        per_token = {
            "infer/num_generated_inputs": Metric(value=16, unit="count"),
            "infer/num_prompt_tokens": Metric(value=16, unit="count"),
            "infer/num_output_tokens": Metric(value=24, unit="count"),
            "infer/energy_j_per_output_token": missing("j", "no NVIDIA GPU"),
        }
        for size, first_ms in ((1, 3.0), (64, 120.0)):
            each = {
                "ttft_ms": Metric(value=first_ms, unit="ms"),
                "tpot_ms": Metric(value=first_ms / 2, unit="ms"),
                "ttft_speedup": Metric(value=1.5, unit="1", low=1.4, high=1.6),
                "tpot_speedup": Metric(value=1.0, unit="1", low=0.9, high=1.1),
                "flops_per_output_token": Metric(value=2.5e6, unit="flop"),
                "bytes_per_output_token": Metric(value=6 * 1024, unit="bytes"),
            }
            per_token |= {f"infer/{name}_b{size}": metric for name, metric in each.items()}
        record = make(method, changed=per_token | (changed or {}), **fields)
        measure = {**record.config["measure"], "workload": "generate"}
        return record.model_copy(update={"config": record.config | {"measure": measure}})

    return build


def cells(made, header: str):
    (place,) = [n for n, column in enumerate(made.columns) if column.header == header]
    return [line.texts[place] for line in made.lines]


def test_per_token_columns_stand_at_both_batch_sizes(generating, tabulated):
    """Times, their speed-ups with interval, FLOPs and memory at 1 and 64, and energy."""
    (table,) = tabulated(generating(), generating("moe"))
    made = sheet(table)
    assert cells(made, "TTFT, batch 64 (ms)")[1].main == "120"
    assert cells(made, "TPOT, batch 1 (ms)")[1].main == "1.50"
    assert cells(made, "FLOPs per token, batch 64 (M)")[1].main == "2.50"
    assert cells(made, "memory per token, batch 1 (KiB)")[1].main == "6.00"
    gain, tie = (cells(made, f"{name} speed-up, batch 1 (x)")[1] for name in ("TTFT", "TPOT"))
    assert (gain.bounds, gain.verdict, tie.verdict) == (("1.40", "1.60"), "better", "tie")


def test_missing_energy_per_token_is_a_dash_with_its_reason(generating, tabulated):
    """The column stands, so that the reason is visible."""
    (table,) = tabulated(generating())
    made = sheet(table)
    (text,) = cells(made, "energy per token (J)")
    assert (text.main, bool(text.marks)) == ("-", True)
    assert "no NVIDIA GPU" in dict(made.footnotes).values()


def test_the_cpus_energy_per_token_stands_where_there_is_one(generating, tabulated):
    """A column of its own, never added to the board's."""
    joules = {"infer/cpu_energy_j_per_output_token": Metric(value=0.0125, unit="j")}
    (table,) = tabulated(generating(changed=joules))
    assert cells(sheet(table), "CPU energy per token (mJ)")[0].main == "12.5"
    (table,) = tabulated(generating())
    assert not any("CPU energy per token" in column.header for column in sheet(table).columns)


def test_other_tables_have_no_column_per_token(make, tabulated):
    """Where no row generates there is no such column."""
    (table,) = tabulated(make(), make("moe"))
    headers = " ".join(column.header for column in sheet(table).columns)
    assert not any(word in headers for word in ("TTFT", "TPOT", "per token"))


def test_every_format_has_them(generating, tabulated):
    """Markdown, LaTeX and CSV."""
    made = tabulated(generating("moe"))
    assert "TTFT speed-up, batch 64 (x)" in markdown(made)
    assert "TTFT" in latex(made)
    row = pd.read_csv(io.StringIO(csv(made))).iloc[0]
    assert (row["infer/ttft_ms_b64"], row["infer/tpot_speedup_b1_high"]) == (120.0, 1.1)


def test_workloads_never_share_a_table(generating, make, tabulated):
    """The same method in both makes two tables, of which one has the workload in its title."""
    made = tabulated(make("moe"), generating("moe", started=1))
    titles = {table.title: len(table.rows) for table in made}
    assert titles == {"digits, transformer": 1, "digits, transformer (workload=generate)": 1}


def test_the_title_names_the_workload_also_alone(generating, tabulated):
    """The title does not depend on what else was reported, and the inputs are those used."""
    (table,) = tabulated(generating("moe"))
    assert table.title == "digits, transformer (workload=generate)"
    text = markdown([table])
    assert "(10 rounds, 16 inputs)" in text
    assert "reads 16 tokens and generates 24" in text


def test_an_older_record_without_a_workload_is_forward(make, tabulated):
    """Records from before there was a choice share the table of those that name it."""
    named = make("moe", started=1)
    measure = {**named.config["measure"], "workload": "forward"}
    named = named.model_copy(update={"config": named.config | {"measure": measure}})
    (table,) = tabulated(make(), named)
    assert table.title == "digits, transformer"


def test_times_of_several_seeds_have_an_interval(generating, tabulated):
    """1 ms and 3 ms: mean 2, and 12.706 * sqrt(2) / sqrt(2) = 12.7 to each side."""
    records = [
        generating("moe", {"infer/tpot_ms_b1": Metric(value=t, unit="ms")}, labels={"seed": s})
        for s, t in enumerate((1.0, 3.0))
    ]
    (table,) = tabulated(*records)
    (text,) = cells(sheet(table), "TPOT, batch 1 (ms)")
    assert (text.main, text.spread) == ("2.00", "\u00b112.71")
