"""Rows of a table: operating points, reasons, notes and comparisons."""

from __future__ import annotations

import pytest

from bench.records.catalogue import QUALITY_VS_DENSE
from bench.records.record import DEPENDS_ON_BATCH, UPPER_BOUND, Metric, missing


def test_dense_stands_first_then_names_then_variants(make, tabulated):
    """Rows are in an order that does not depend on the files'."""
    variant = {"variant": "num_experts=16"}
    (table,) = tabulated(make("moe", labels=variant), make("moe"), make("branches"), make())
    names = ["dense", "branches", "moe", "moe,num_experts=16"]
    assert [row.name for row in table.rows] == names


def test_operating_points_stand_below_their_method(make, tabulated):
    """The first point is the default, with the record's own metrics; each other one has a row."""
    points = [
        {"settings": {"threshold": t}, "metrics": {"infer/quality": Metric(value=q, unit="1")}}
        for t, q in ((0.8, 0.91), (0.9, 0.92))
    ]
    (table,) = tabulated(
        *(make("early_exit", points=points, labels={"seed": seed}) for seed in (0, 1)), make()
    )
    names = ["dense", "early_exit @ threshold 0.8", "early_exit @ threshold 0.9"]
    assert [row.name for row in table.rows] == names
    assert table.rows[2].seeds == (0, 1)
    assert table.rows[2].cells["infer/quality"].value == pytest.approx(0.92)
    assert [row.method_name for row in table.rows] == ["dense", "early_exit", "early_exit"]
    assert [row.point for row in table.rows] == ["", "", "threshold=0.9"]


def test_skipped_and_failed_trials_keep_their_reasons(make, tabulated):
    """They have no row and are listed with their reason."""
    (table,) = tabulated(
        make(),
        make("soft_moe", status="skipped", reason="needs tokens"),
        make("moe", status="failed", reason="out of memory", labels={"variant": "k=2"}),
    )
    assert [row.name for row in table.rows] == ["dense"]
    lines = ["failed: moe,k=2 (seed 0): out of memory", "skipped: soft_moe (seed 0): needs tokens"]
    assert table.unfinished == lines


def test_training_on_top_of_the_dense_model_is_a_note(make, tabulated):
    """More steps than dense had are an advantage of their own; training free methods have none."""
    start = Metric(value=12.5, unit="s")
    on_top = {"train/dense_time_s": start, "train/num_steps": Metric(value=138, unit="count")}
    free = {"train/dense_time_s": start, "train/num_steps": Metric(value=0, unit="count")}
    (table,) = tabulated(make(), make("early_exit", changed=on_top), make("merge", changed=free))
    note = "starts from the trained dense model and adds 138 training steps"
    assert table.notes == [f"early_exit: {note}"]


def test_equal_notes_share_a_line(make, tabulated):
    """The same note of two seeds stands once and names both."""
    note = "quality is at chance level"
    (table,) = tabulated(*(make("moe", notes=[note], labels={"seed": s}) for s in (0, 1)))
    assert table.notes == [f"moe (seed 0), moe (seed 1): {note}"]


def test_quality_is_compared_with_dense_over_shared_seeds(make, tabulated):
    """Seeds 0 and 1 are shared: differences -0.02 and -0.04, mean -0.03; seed 2 does not count."""
    dense = [make(quality=0.9, labels={"seed": seed}) for seed in (0, 1)]
    moe = [make("moe", quality=q, labels={"seed": s}) for s, q in enumerate((0.88, 0.86, 0.1))]
    (table,) = tabulated(*dense, *moe)
    assert QUALITY_VS_DENSE.key not in table.rows[0].cells
    cell = table.rows[1].cells[QUALITY_VS_DENSE.key]
    assert cell.value == pytest.approx(-0.03)
    assert cell.num_seeds == 2


def test_one_shared_seed_is_no_comparison(make, tabulated):
    """A difference of single trials has no spread and is not shown."""
    (table,) = tabulated(make(), make("moe"))
    assert QUALITY_VS_DENSE.key not in table.rows[1].cells


@pytest.mark.parametrize(
    ("declared", "executed", "shortfall"),
    [
        *((0.5, 0.01, "masked"), (0.06, 0.0, "masked"), (0.5, 0.25, "masked")),
        *((0.5, 0.26, "padded"), (0.4, 0.34, "padded")),
        *((0.5, 0.49, ""), (0.05, 0.0, "")),
    ],
)
def test_a_saving_that_is_declared_but_not_executed_is_reported(
    make, tabulated, declared: float, executed: float, shortfall: str
):
    """From five points on: "masked" where most of it was executed anyway, else "padded"."""
    savings = {
        "infer/declared_saving": Metric(value=declared, unit="1"),
        "infer/executed_saving": Metric(value=executed, unit="1"),
    }
    (table,) = tabulated(make("skipnet", changed=savings))
    assert table.rows[0].shortfall == shortfall
    named = [note for note in table.notes if "declare a saving" in note]
    assert named == [note for note in named if f"skipnet: {shortfall}: " in note]
    assert len(named) == bool(shortfall)


def test_without_both_savings_there_is_no_shortfall(make, tabulated):
    """An unmeasured saving is not a missing one."""
    savings = {
        "infer/declared_saving": Metric(value=0.5, unit="1"),
        "infer/executed_saving": missing("1", "gates cannot be forced open"),
    }
    (table,) = tabulated(make("skipnet", changed=savings), make("other"))
    assert [row.shortfall for row in table.rows] == ["", ""]


def test_remarks_of_a_row(make, tabulated):
    """An upper bound, an output that depends on the batch, and FLOPs never below dense."""
    least = {"infer/flops_share_closed": Metric(value=1.0, unit="1")}
    (table,) = tabulated(
        make(),
        make("also_dense", changed=least),
        make("expert_choice", notes=[DEPENDS_ON_BATCH]),
        make("oracle", notes=[UPPER_BOUND]),
    )
    remarks = {row.method: row.remarks for row in table.rows}
    assert remarks == {
        "dense": (),
        "also_dense": ("never below dense",),
        "expert_choice": ("output depends on other samples in the batch",),
        "oracle": ("oracle upper bound",),
    }
    never = "with every gate closed it executes 100% of the dense FLOPs, without those of the gates"
    assert f"also_dense: never below dense: {never}" in table.notes


def test_closed_gates_that_leave_less_than_dense_are_no_remark(make, tabulated):
    """Nor are gates that cannot be closed."""
    less = {"infer/flops_share_closed": Metric(value=0.99, unit="1")}
    unknown = {"infer/flops_share_closed": missing("1", "the gates cannot be closed")}
    (table,) = tabulated(make("moe", changed=less), make("skipnet", changed=unknown))
    assert [row.remarks for row in table.rows] == [(), ()]
