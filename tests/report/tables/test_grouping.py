"""Which records share a table, which share a row, and which are left out by name."""

from __future__ import annotations

import pytest

from bench.records.reading import read
from bench.report.tables.rows import tables


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
    """Two training lengths make two tables, whose titles name the setting."""
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
    """Only the table with the unusual training has it in its title."""
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


def test_a_record_without_identity_replaces_no_seed(make, tabulated):
    """A dead child's record that lacks the identity does not push the finished seeds out."""
    dead = make("moe", status="failed", reason="killed", started=9, labels={"seed": 1})
    (table,) = tabulated(make("moe"), dead.model_copy(update={"provenance": {}}))
    assert table.rows[0].seeds == (0,)
    assert table.unfinished == ["failed: moe (seed 1): killed"]


def test_a_record_from_before_settings_of_training_shares_the_table_of_their_defaults(
    make, tabulated
) -> None:
    """Neither a rate of fine-tuning nor a budget of FLOPs was stated: 1.0 and none."""
    old = make("moe")
    train = dict(old.config.get("train", {})) | {"fine_tune_lr_share": 1.0, "flops": None}
    new = make("early_exit", started=1)
    new = new.model_copy(update={"config": new.config | {"train": train}})
    (table,) = tabulated(old, new)
    assert len(table.rows) == 2
