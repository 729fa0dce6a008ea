"""Cells as text: units, digits, ties, and reasons instead of zeros."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench.records.catalogue import ENTRIES, MEAN_LATENCY, REGION_FLOPS, REGION_TIME, TRAIN_LOSS
from bench.records.entry import Shown
from bench.records.record import UPPER_BOUND, Metric, missing
from bench.report.tables import columns
from bench.report.tables.numbers import Text
from bench.report.tables.sheet import Sheet, sheet


@pytest.fixture
def sheet_of(tabulated):
    """`sheet_of(record, ...)`: the sheet of the only table of these records."""

    def run(*records, narrow: bool = False) -> Sheet:
        (table,) = tabulated(*records)
        return sheet(table, narrow)

    return run


def texts(made: Sheet, header: str) -> list[Text]:
    """The cells of the column whose header begins so."""
    (place,) = [n for n, column in enumerate(made.columns) if column.header.startswith(header)]
    return [line.texts[place] for line in made.lines]


def test_headers_carry_unit_and_direction(sheet_of, make):
    """100 MFLOP, 64 MiB and an accuracy that should be high are in the header."""
    headers = [column.header for column in sheet_of(make(), make("moe", share=0.5)).columns]
    assert headers == [
        *("params (k)", "accuracy \u2191", "quality minus dense"),
        *("FLOPs per sample (M)", "FLOPs, % of dense"),
        *("speed-up, batch 1 (x)", "speed-up, batch 64 (x)"),
        *("verdict, batch 1", "verdict, batch 64"),
        *("realised, batch 1", "realised, batch 64", "memory, batch 64 (MiB)"),
        *("training memory (MiB)", "energy per sample (J)", "training time (s)"),
    ]


def test_headers_wrap_into_short_lines(sheet_of, make):
    """At blanks, and a long unit at its slash: "bits/character" is wider than its numbers."""
    bits = {"infer/quality": Metric(value=2.9, unit="bits/character")}
    columns = {column.key: column.header_lines for column in sheet_of(make(changed=bits)).columns}
    assert columns["infer/quality"] == ["bits/", "character", "\u2191"]
    assert columns["infer/peak_tensor_bytes_b64"] == ["memory", "batch 64", "(MiB)"]
    assert columns["infer/flops_share"] == ["FLOPs, %", "of dense"]


def test_lower_is_better_points_down(sheet_of, make):
    """A quality that should be low carries a downward arrow, and its unit as title."""
    bits = {"infer/quality": Metric(value=2.9, unit="bits/character")}
    lower = {"direction": "lower", "chance": 6.5}
    made = sheet_of(make("moe", changed=bits, quality_label=lower))
    assert made.columns[1].header == "bits/character \u2193"


def test_a_quality_without_unit_or_direction_is_called_quality(sheet_of, make):
    """No unit and no arrow are invented where the record has none."""
    bare = {"infer/quality": Metric(value=2.9, unit="1")}
    made = sheet_of(make("moe", changed=bare, quality_label=None))
    assert made.columns[1].header == "quality"


def test_further_scores_stand_beside_the_quality(sheet_of, make):
    """By name, with their unit where that is another word; two seeds give an interval."""
    label = {"direction": "higher", "more": ["BLEU", "digits"]}
    records = [
        make(
            "moe",
            changed={
                "infer/quality_bleu": Metric(value=30.0 + seed, unit="BLEU"),
                "infer/quality_digits": Metric(value=90.0, unit="accuracy %"),
            },
            labels={"seed": seed},
            quality_label=label,
        )
        for seed in (0, 1)
    ]
    made = sheet_of(*records)
    headers = [column.header for column in made.columns]
    assert headers[1:4] == ["accuracy \u2191", "BLEU \u2191", "digits \u2191 (accuracy %)"]
    (bleu,) = texts(made, "BLEU")
    assert (bleu.main, bleu.spread) == ("30.50", "\u00b16.35")  # 12.706 * 0.7071 / sqrt(2)
    assert "BLEU \u2191" not in [c.header for c in sheet_of(*records, narrow=True).columns]


def test_one_unit_per_column(sheet_of, make):
    """The largest value chooses the prefix: 100 M and 25 M, not 25000 k."""
    made = sheet_of(make(), make("moe", share=0.25))
    assert [text.main for text in texts(made, "FLOPs per")] == ["100", "25.0"]
    assert [text.main for text in texts(made, "FLOPs, %")] == ["100", "25.0"]


def test_speedups_carry_interval_and_verdict(sheet_of, make):
    """1.8 +- 0.04 is a gain, 1.02 +- 0.04 a tie."""
    made = sheet_of(make("fast", speedup=1.8), make("slight", speedup=1.02))
    fast, slight = texts(made, "speed-up, batch 64")
    expected = Text("1.80", "\u00b10.04", ("1.76", "1.84"), "better")
    assert fast == expected
    assert (slight.verdict, slight.interval) == ("tie", "[0.980, 1.06]")


def test_a_speedup_without_interval_has_no_verdict(sheet_of, make):
    """The number has a footnote instead."""
    bare = {"infer/speedup_b1": Metric(value=1.9, unit="1")}
    made = sheet_of(make("moe", changed=bare))
    (text,) = texts(made, "speed-up, batch 1 ")
    assert (text.main, text.verdict) == ("1.90", "")
    assert ("a", "no interval, so no verdict") in made.footnotes


def test_a_missing_number_is_a_dash_with_its_reason(sheet_of, make):
    """Never 0: energy without a GPU is '-' with one footnote for all rows."""
    made = sheet_of(make(), make("moe", share=0.5, speedup=1.8))
    assert [(text.main, text.marks) for text in texts(made, "energy")] == [("-", "a"), ("-", "a")]
    assert made.footnotes == [("a", "no NVIDIA GPU: the driver does not answer")]


def test_an_invalid_number_is_a_dash_with_its_reason(sheet_of, make):
    """A number that failed its check is not shown."""
    wrong = Metric(value=0.5, unit="1", low=0.4, high=0.6, valid=False, reason="never steady")
    made = sheet_of(make("moe", changed={"infer/speedup_b1": wrong}))
    (text,) = texts(made, "speed-up, batch 1 ")
    assert (text.main, text.interval) == ("-", "")
    assert "never steady" in dict(made.footnotes).values()


def test_a_metric_that_no_record_has_is_explained(sheet_of, make):
    """A key that is absent altogether is '-' with a footnote too."""
    record = make("moe")
    del record.metrics["model/params"]
    made = sheet_of(record)
    assert texts(made, "params")[0].main == "-"
    assert "not in the record" in dict(made.footnotes).values()


def test_seeds_that_lack_a_number_are_counted_in_the_footnote(sheet_of, make):
    """A mean over one of two seeds has a footnote with the count."""
    energy = {"infer/energy_j_per_sample": Metric(value=0.002, unit="j")}
    made = sheet_of(
        make("moe", changed=energy),
        make("moe", labels={"seed": 1}),
        make(),
        make(labels={"seed": 1}),
    )
    assert texts(made, "energy")[1].main == "2.00"  # mJ
    reasons = dict(made.footnotes).values()
    assert "1 of 2 seeds: no NVIDIA GPU: the driver does not answer" in reasons


def test_a_row_of_fewer_seeds_is_marked(sheet_of, make):
    """Beside a row of two seeds, a row of one."""
    made = sheet_of(make(), make(labels={"seed": 1}), make("moe"))
    assert [line.name for line in made.lines] == ["dense", "moe (1 of 2 seeds)"]


def test_a_masked_row_is_marked(sheet_of, make):
    """The word stands behind the method's name."""
    savings = {
        "infer/declared_saving": Metric(value=0.5, unit="1"),
        "infer/executed_saving": Metric(value=0.0, unit="1"),
    }
    assert sheet_of(make("skipnet", changed=savings)).lines[0].name == "skipnet (masked)"


def test_training_is_shown_once_for_all_operating_points(sheet_of, make):
    """Parameters and training belong to the model: a point's row leaves them blank, unfootnoted."""
    points = [{"settings": {"k": k}, "metrics": {}} for k in (1, 2)]
    made = sheet_of(make("moe", points=points))
    assert [text.main for text in texts(made, "params")] == ["812", ""]
    assert [text.main for text in texts(made, "training time")] == ["61.5", ""]
    assert texts(made, "speed-up, batch 1 ")[1].main == "-"
    assert "not measured at this operating point" in dict(made.footnotes).values()
    assert made.lines[1].nested_name == "@ k 2"


def test_a_dense_start_has_its_own_column(sheet_of, make):
    """Only where some method starts from the dense model; the others give the reason.

    The cell of dense itself is blank.
    """
    assert not any("dense pre-training" in column.header for column in sheet_of(make()).columns)
    started = {"train/dense_time_s": Metric(value=55.0, unit="s")}
    dense = make()
    del dense.metrics["train/dense_time_s"]
    made = sheet_of(dense, make("branches"), make("early_exit", changed=started))
    assert [text.main for text in texts(made, "dense pre-training needed")] == ["", "-", "55.0"]


def test_other_batch_sizes_become_the_headline(sheet_of, make):
    """Where 1 and 64 were not both measured, the smallest and the largest size are shown."""
    record = make("moe")
    for key in [key for key in record.metrics if key.endswith(("_b1", "_b64"))]:
        del record.metrics[key]
    for size in (1, 8, 32):
        record.metrics[f"infer/speedup_b{size}"] = Metric(value=1.0, unit="1", low=0.9, high=1.1)
    headers = [column.title for column in sheet_of(record).columns]
    assert [title for title in headers if "speed-up" in title] == [
        *("speed-up, batch 1", "speed-up, batch 32")
    ]


def test_differences_to_dense_have_the_decimals_of_their_interval(sheet_of, make):
    """-0.01 and -0.05 against dense: mean -0.03 +- 12.706 * 0.02 = 0.25, a tie."""
    dense = [make(quality=0.9, labels={"seed": seed}) for seed in (0, 1)]
    moe = [make("moe", quality=q, labels={"seed": s}) for s, q in enumerate((0.89, 0.85))]
    blank, text = texts(sheet_of(*dense, *moe), "quality minus dense")
    assert blank == Text("")
    assert (text.main, text.spread, text.verdict) == ("-0.03", "\u00b10.25", "tie")


def test_the_narrow_sheet_keeps_the_deciding_columns(sheet_of, make):
    """A terminal shows what decides, and a line in place of a column of dashes."""
    made = sheet_of(make(), narrow=True)
    titles = {column.title for column in made.columns}
    assert titles == {
        *("accuracy \u2191", "FLOPs, % of dense", "realised, batch 64", "verdict, batch 64"),
        *("speed-up, batch 1", "speed-up, batch 64", "memory, batch 64"),
        "training time",
    }
    assert made.absent == ["energy per sample: no NVIDIA GPU: the driver does not answer"]


def test_footnotes_continue_after_z(sheet_of, make):
    """Thirty different reasons get thirty different marks."""
    records = [
        make(
            f"m{n:02}",
            share=0.5,
            speedup=1.8,
            changed={"infer/energy_j_per_sample": missing("j", f"reason {n}")},
        )
        for n in range(30)
    ]
    marks = [letter for letter, _ in sheet_of(*records).footnotes]
    assert len(set(marks)) == 30
    assert marks[25:28] == ["z", "1", "2"]


def test_an_upper_bound_does_not_win(sheet_of, make):
    """A control that reads the targets has its numbers, a remark and no verdict."""
    made = sheet_of(make("oracle", speedup=1.8, notes=[UPPER_BOUND]))
    (speedup,) = texts(made, "speed-up, batch 64")
    assert (speedup.main, speedup.verdict) == ("1.80", "")
    assert made.lines[0].name == "oracle (oracle upper bound)"


def test_a_new_column_is_one_line_of_the_catalogue(sheet_of, make, monkeypatch):
    """Another place in the catalogue is all it takes: header, unit, order and format follow."""
    place = {
        MEAN_LATENCY: Shown.TERMINAL,
        REGION_FLOPS: Shown.TABLE_IF,
        REGION_TIME: Shown.TABLE,
        TRAIN_LOSS: Shown.TABLE_IF,
    }
    moved = tuple(replace(entry, shown=place.get(entry, entry.shown)) for entry in ENTRIES)
    monkeypatch.setattr(columns, "ENTRIES", moved)
    extra = {
        "infer/latency_ms_mean": Metric(value=12.5, unit="ms"),
        "infer/flops_expert": Metric(value=3e6, unit="flop"),
        "infer/flops_router": Metric(value=15e3, unit="flop"),
        "infer/time_share_expert_b64": Metric(value=0.25, unit="1"),
    }
    made = sheet_of(make(changed=extra))
    (line,) = made.lines
    cells = {c.header: t.main for c, t in zip(made.columns, line.texts, strict=True)}
    assert cells["latency mean, batch 1 (ms)"] == "12.5"
    assert cells["FLOPs of region expert (M)"] == "3.00"
    assert cells["FLOPs of region router (k)"] == "15.0"
    assert cells["time in expert, batch 64 (%)"] == "25.0"
    assert not any("loss" in header for header in cells)  # no row has a number
    narrow = [column.title for column in sheet_of(make(changed=extra), narrow=True).columns]
    assert [title for title in narrow if "latency" in title] == ["latency mean, batch 1"]
    assert not any("region" in title for title in narrow)
