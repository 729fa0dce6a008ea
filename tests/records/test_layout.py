"""Whatever a name contains, a trial's folder lies inside the results folder."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bench.records import layout
from bench.records.record import Labels

KEY = "0123456789abcdef" * 4
DEFAULTS: dict[str, dict[str, Any]] = {
    "method": {"num_experts": 8, "router": {"rate": 0.5}},
    "backbone": {"depth": 4},
    "task": {"canvas": 16},
}


def config(**changes: dict[str, Any]) -> dict[str, Any]:
    """A resolved configuration of defaults, with some blocks changed."""
    train = {"steps": None, "batch_size": None, "lr": None, "weight_decay": None}
    gpu = {"kind": "cpu", "device": None, "precision": "32", "threads": None}
    blocks = {**DEFAULTS, "train": train, "gpu": gpu}
    return {name: {**block, **changes.get(name, {})} for name, block in blocks.items()}


@given(st.text())
@example("..")
@example("../../etc/passwd")
@example("/etc/passwd")
@example("a/../../b")
@example("")
@example("-rf")
@example("\x00")
@example("x" * 300)
def test_a_part_is_one_safe_part(text: str) -> None:
    """No separator, no leading dot or hyphen, never empty, never longer than a file name."""
    part = layout.part(text)
    assert re.fullmatch(r"[A-Za-z0-9_=,+][A-Za-z0-9._=,+-]*", part)
    assert len(part.encode()) <= 255


def test_long_names_that_differ_at_the_end_stay_different() -> None:
    """What is cut off is replaced by a hash."""
    assert layout.part("x" * 300 + "a") != layout.part("x" * 300 + "b")


def test_the_folder_says_what_the_trial_is() -> None:
    """name / hardware / task / backbone / method,variant / seed-key8."""
    labels = Labels(
        experiment="table",
        hardware="cpu-2x-epyc",
        task="digits",
        backbone="transformer",
        method="moe",
        variant="num_experts=16",
        seed=3,
    )
    assert layout.trial_folder(Path("results"), labels, KEY) == Path(
        "results/table/cpu-2x-epyc/digits/transformer/moe,num_experts=16/seed3-01234567"
    )


@given(st.text(), st.text(), st.text())
def test_a_folder_stays_inside_the_results(name: str, method: str, variant: str) -> None:
    """Five folders of one part each below results, whatever the labels are."""
    labels = Labels(
        experiment=name,
        hardware="h",
        task="t",
        backbone="b",
        method=method,
        variant=variant,
        seed=0,
    )
    folder = layout.trial_folder(Path("/r"), labels, KEY)
    assert len(folder.parts) == 8
    assert folder.parents[5] == Path("/r")
    assert ".." not in folder.parts


@pytest.mark.parametrize(
    "name", ["", "..", "a/b", ".hidden", "a b", "-x", "checkpoints", "x" * 200, *layout.TAKEN]
)
def test_an_experiments_name_is_refused_rather_than_changed(name: str) -> None:
    """A person looks for the name that was given, so it must be possible as it is."""
    with pytest.raises(ValueError, match="use letters, digits"):
        layout.check_name(name)


def test_ordinary_names_are_fine() -> None:
    """Letters, digits and ._-+=, may be used."""
    layout.check_name("table_1.v2-final")


def test_defaults_have_no_variant() -> None:
    """Where nothing differs from the defaults the variant is empty."""
    assert layout.variant(config(), DEFAULTS) == ""


@pytest.mark.parametrize(
    ("changes", "variant"),
    [
        ({"method": {"num_experts": 16}}, "num_experts=16"),
        ({"method": {"router": {"rate": 0.25}}}, "router.rate=0.25"),
        ({"backbone": {"depth": 8}}, "backbone.depth=8"),
        ({"task": {"canvas": 24}}, "task.canvas=24"),
        ({"train": {"steps": 100}}, "train.steps=100"),
        ({"gpu": {"precision": "bf16"}}, "gpu.precision=bf16"),
        ({"gpu": {"kind": "one"}}, ""),  # it is in the hardware's name
        ({"gpu": {"kind": "ddp"}}, "gpu.kind=ddp"),
        (
            {"method": {"num_experts": 2}, "train": {"lr": 0.1}, "backbone": {"depth": 2}},
            "num_experts=2,backbone.depth=2,train.lr=0.1",
        ),
        ({"method": {"required": [1, 2]}}, "required=[1,2]"),  # a setting without a default
    ],
)
def test_a_variant_is_what_differs_from_the_defaults(
    changes: dict[str, dict[str, Any]], variant: str
) -> None:
    """The method's own settings bare, others with their block's name."""
    assert layout.variant(config(**changes), DEFAULTS) == variant


def test_checkpoints_lie_beside_the_experiments() -> None:
    """A checkpoint's path is relative to the results folder and shared by experiments."""
    assert layout.checkpoint_path(KEY) == f"checkpoints/{KEY[:32]}.pt"
