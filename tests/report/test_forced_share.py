"""Trials with gates at a stated share: tables of their own, whose title and legend name it."""

from __future__ import annotations

from bench.records.record import Record, missing
from bench.report.render.text import markdown

REASON = "random weights on random inputs: cost only"


def forced(record: Record, share: float | None) -> Record:
    """The record with this share among its settings, and without a quality."""
    measure = {**record.config["measure"], "force_share": share}
    metrics = record.metrics | {"infer/quality": missing("accuracy %", REASON)}
    points = [
        point.model_copy(update={"metrics": point.metrics | metrics}) for point in record.points
    ]
    config = record.config | {"measure": measure}
    return record.model_copy(
        update={"config": config, "metrics": metrics, "points": points, "quality": None}
    )


def test_the_title_and_a_line_name_the_share(make, tabulated) -> None:
    """Quality is a dash with its reason below."""
    (table,) = tabulated(forced(make("moe"), 0.6))
    assert table.title == "digits, transformer (gates forced to run a share of 0.6)"
    text = markdown([table])
    assert "Gates run a stated share, 0.6, of what they decide about" in text
    assert f"(a) {REASON}" in text


def test_other_shares_never_share_a_table(make, tabulated) -> None:
    """0.5, 0.6 and none: three tables; a record from before the setting is one without."""
    made = tabulated(
        *(forced(make("moe", started=i), share) for i, share in enumerate((0.5, 0.6, None))),
        make("early_exit", started=4),
    )
    rows = {table.title: len(table.rows) for table in made}
    assert rows == {
        "digits, transformer (gates forced to run a share of 0.5)": 1,
        "digits, transformer (gates forced to run a share of 0.6)": 1,
        "digits, transformer": 2,
    }
    assert sum("stated share" in markdown([table]) for table in made) == 2
