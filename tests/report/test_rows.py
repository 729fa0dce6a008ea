"""Which records share a table, which share a row, and what is left out by name."""

from __future__ import annotations

import pytest

from bench.record import Metric, missing
from bench.report.reading import read
from bench.report.rows import VS_DENSE, tables


def test_different_hardware_is_never_averaged(make, tabulated):
    """The same trial on two machines makes two tables with one seed each."""
    made = tabulated(*(make("moe", labels={"hardware": name, "seed": 0}) for name in ("a", "b")))
    assert [table.hardware for table in made] == ["a", "b"]
    assert [table.rows[0].seeds for table in made] == [(0,), (0,)]


@pytest.mark.parametrize("label", ["task", "backbone"])
def test_tasks_and_backbones_have_tables_of_their_own(make, tabulated, label: str):
    """Two tasks, or two backbones, make two tables."""
    assert len(tabulated(make("moe"), make("moe", labels={label: "other"}))) == 2


def test_profiles_have_tables_of_their_own(make, tabulated):
    """A quick and a published measurement do not share a table."""
    record = make("moe", started=1)
    config = record.config | {"measure": {"profile": "publish", "rounds": 30}}
    made = tabulated(make("moe"), record.model_copy(update={"config": config}))
    assert [table.profile for table in made] == ["publish", "quick"]


def test_other_settings_have_tables_of_their_own_named_by_what_differs(make, tabulated):
    """Two training lengths make two tables, whose titles say which is which."""
    record = make("moe", started=1)
    longer = record.model_copy(update={"config": record.config | {"train": {"steps": 500}}})
    titles = sorted(table.title for table in tabulated(make("moe"), longer))
    expected = ["digits, transformer (train.steps=500)", "digits, transformer (train.steps=None)"]
    assert titles == expected


def test_shared_settings_stand_in_the_title_not_in_every_name(make, tabulated):
    """Of `k=2,train.steps=60` the row is called by k=2 and the table by the training's length."""
    variants = {"dense": "train.steps=60", "moe": "k=2,train.steps=60,gpu.device=GPU-1"}
    records = [make(name, labels={"variant": variant}) for name, variant in variants.items()]
    (table,) = tabulated(*records, make("dead", status="failed", reason="oom", labels={"seed": 1}))
    assert table.title == "digits, transformer (train.steps=60)"
    assert [row.name for row in table.rows] == ["dense", "moe,k=2"]


def test_a_default_table_beside_another_stays_plain(make, tabulated):
    """Only the table with the unusual training says so."""
    short = make("moe", labels={"variant": "train.steps=60"})
    short = short.model_copy(update={"config": short.config | {"train": {"steps": 60}}})
    titles = {table.title for table in tabulated(make("moe"), short)}
    assert titles == {"digits, transformer", "digits, transformer (train.steps=60)"}


def test_which_of_equal_gpus_does_not_matter(make, tabulated):
    """Two GPUs of one kind are one hardware: their trials share a row."""

    def on(uuid: str, seed: int):
        record = make("moe", labels={"seed": seed})
        return record.model_copy(
            update={"config": record.config | {"gpu": {"kind": "one", "device": uuid}}}
        )

    made = tabulated(on("GPU-1", 0), on("GPU-2", 1))
    assert [row.seeds for table in made for row in table.rows] == [(0, 1)]


def test_dense_stands_first_then_names_then_variants(make, tabulated):
    """Rows are in an order that does not depend on the files'."""
    variant = {"variant": "num_experts=16"}
    (table,) = tabulated(make("moe", labels=variant), make("moe"), make("branches"), make())
    names = ["dense", "branches", "moe", "moe,num_experts=16"]
    assert [row.name for row in table.rows] == names


def test_operating_points_stand_below_their_method(make, tabulated):
    """The first point is the default and is the method's own row; each other one has a row."""
    points = [
        {"settings": {"threshold": t}, "metrics": {"infer/quality": Metric(value=q, unit="1")}}
        for t, q in ((0.8, 0.91), (0.9, 0.92))
    ]
    (table,) = tabulated(
        *(make("early_exit", points=points, labels={"seed": seed}) for seed in (0, 1)), make()
    )
    names = ["dense", "early_exit", "early_exit [threshold=0.9]"]
    assert [row.name for row in table.rows] == names
    assert table.rows[2].seeds == (0, 1)
    assert table.rows[2].cells["infer/quality"].value == pytest.approx(0.92)
    assert "early_exit: runs at threshold=0.8 by default" in table.notes


def test_the_newest_trial_decides_which_code_a_row_shows(make, tabulated):
    """After a change of code one new seed stands alone; the old ones are named, not averaged."""
    old = [make("moe", code="old", started=seed, labels={"seed": seed}) for seed in (0, 1, 2)]
    (table,) = tabulated(*old, make("moe", code="new", started=9, labels={"seed": 1}))
    assert table.rows[0].seeds == (1,)
    assert len(table.left_out) == 3
    assert all("other code" in line for line in table.left_out)


def test_a_record_without_a_start_is_as_old_as_its_file(make, tree):
    """What the launcher wrote for a dead child replaces an older result of the same seed."""
    dead = make("moe", status="failed", reason="killed", started=7)
    dead = dead.model_copy(update={"provenance": {"identity": dead.provenance["identity"]}})
    (table,) = tables(read([tree(make("moe", started=1), dead)]).found)
    assert table.rows == []
    assert table.unfinished == ["failed: moe (seed 0): killed"]


def test_one_seed_counts_once(make, tabulated):
    """The same trial in two trees is one seed; the older record is named."""
    (table,) = tabulated(make("moe", started=1), make("moe", started=2, quality=0.5))
    assert table.rows[0].cells["infer/quality"].value == 0.5
    assert "a newer trial of this row has seed 0" in table.left_out[0]


def test_a_record_without_identity_hides_nobody(make, tabulated):
    """A dead child's record that lacks the identity does not push the finished seeds out."""
    dead = make("moe", status="failed", reason="killed", started=9, labels={"seed": 1})
    (table,) = tabulated(make("moe"), dead.model_copy(update={"provenance": {}}))
    assert table.rows[0].seeds == (0,)
    assert table.unfinished == ["failed: moe (seed 1): killed"]


def test_skipped_and_failed_trials_keep_their_reasons(make, tabulated):
    """They make no row and are listed with their reason."""
    (table,) = tabulated(
        make(),
        make("soft_moe", status="skipped", reason="needs tokens"),
        make("moe", status="failed", reason="out of memory", labels={"variant": "k=2"}),
    )
    assert [row.name for row in table.rows] == ["dense"]
    lines = ["failed: moe,k=2 (seed 0): out of memory", "skipped: soft_moe (seed 0): needs tokens"]
    assert table.unfinished == lines


def test_notes_are_said_once_with_their_trials(make, tabulated):
    """The same remark of two seeds is one note that names both."""
    note = "quality is at chance level"
    (table,) = tabulated(*(make("moe", notes=[note], labels={"seed": s}) for s in (0, 1)))
    assert table.notes == [f"moe (seed 0), moe (seed 1): {note}"]


def test_quality_is_compared_with_dense_over_shared_seeds(make, tabulated):
    """Seeds 0 and 1 are shared: differences -0.02 and -0.04, mean -0.03; seed 2 does not count."""
    dense = [make(quality=0.9, labels={"seed": seed}) for seed in (0, 1)]
    moe = [make("moe", quality=q, labels={"seed": s}) for s, q in enumerate((0.88, 0.86, 0.1))]
    (table,) = tabulated(*dense, *moe)
    assert VS_DENSE not in table.rows[0].cells
    cell = table.rows[1].cells[VS_DENSE]
    assert cell.value == pytest.approx(-0.03)
    assert cell.num_seeds == 2


def test_one_shared_seed_is_no_comparison(make, tabulated):
    """A difference of single trials has no spread to judge it by and is not shown."""
    (table,) = tabulated(make(), make("moe"))
    assert VS_DENSE not in table.rows[1].cells


@pytest.mark.parametrize(
    ("declared", "executed", "masked"),
    [(0.5, 0.01, True), (0.5, 0.49, False), (0.06, 0.0, True), (0.05, 0.0, False)],
)
def test_a_saving_that_is_declared_but_not_executed_is_masked(
    make, tabulated, declared: float, executed: float, masked: bool
):
    """More than five points between declared and executed saving is a mask, and is said so."""
    savings = {
        "infer/declared_saving": Metric(value=declared, unit="1"),
        "infer/executed_saving": Metric(value=executed, unit="1"),
    }
    (table,) = tabulated(make("skipnet", changed=savings))
    assert table.rows[0].masked is masked
    assert any("masked" in note for note in table.notes) is masked


def test_without_both_savings_nothing_is_called_masked(make, tabulated):
    """What was not measured is no accusation."""
    savings = {
        "infer/declared_saving": Metric(value=0.5, unit="1"),
        "infer/executed_saving": missing("1", "gates cannot be forced open"),
    }
    (table,) = tabulated(make("skipnet", changed=savings), make("other"))
    assert not any(row.masked for row in table.rows)
