"""The exact gate in this process, on one small method: equal, changed, rewritten."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from bench.regress.golden.compare import BASELINE, compare_golden
from bench.regress.verdict import BadInput

CHOSEN = (
    "method=early_exit",
    "method.every=2",  # one exit: a recording in which no sample leaves can be replayed
    "method.budgets=[0.7]",
    "task=digits",
    "backbone.depth=3",
    "measure.num_inputs=2",
    "measure.batch_sizes=[2]",
)


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """Golden records of two trials, made once."""
    folder = tmp_path_factory.mktemp("golden")
    assert compare_golden(folder, CHOSEN, update=True) == 0
    return folder


@pytest.fixture
def golden(original, tmp_path):
    """A copy of them, to damage."""
    return shutil.copytree(original, tmp_path / "golden")


def record(golden):
    return golden / "digits" / "transformer" / "early_exit.json"


def test_equal_and_changed_counts_are_separated(golden, capsys) -> None:
    """The same code is equal; a count that differs is exit code 1, and --update prints it too."""
    capsys.readouterr()
    assert compare_golden(golden, CHOSEN) == 0
    assert "early_exit: equal" in capsys.readouterr().out

    content = json.loads(record(golden).read_text())
    truth = content["counts"]["params"]
    content["counts"]["params"] = truth + 1
    record(golden).write_text(json.dumps(content))
    assert compare_golden(golden, CHOSEN) == 1
    line = f"counts.params {truth + 1:,} -> {truth:,}"
    assert line in capsys.readouterr().out
    assert compare_golden(golden, CHOSEN, update=True) == 0
    assert line in capsys.readouterr().out
    assert compare_golden(golden, CHOSEN) == 0


def test_counts_follow_the_recorded_decisions(golden, capsys) -> None:
    """With every recorded decision inverted, routes and FLOPs differ: they are replayed."""
    path = record(golden).with_suffix(".npz")
    with np.load(path) as found:
        arrays = {name: found[name] for name in found}
    runs = [name for name in arrays if name.endswith("/run")]
    assert runs
    np.savez(path, **{name: ~values if name in runs else values for name, values in arrays.items()})
    assert compare_golden(golden, CHOSEN) == 1
    assert "counts.routes_b2" in capsys.readouterr().out


def test_a_gate_without_a_recording_is_a_change(golden, capsys) -> None:
    """Decisions that were not recorded cannot be replayed: the gate is named."""
    record(golden).with_suffix(".npz").unlink()
    assert compare_golden(golden, CHOSEN) == 1
    assert "decisions: replay: gate" in capsys.readouterr().out


def test_a_method_that_fails_is_a_change(golden, capsys) -> None:
    """A trial that cannot run is named with its cause, and the others are still compared."""
    broken = [word.replace("depth=3", "depth=1") for word in CHOSEN]  # no block is left to exit at
    assert compare_golden(golden, broken) == 1
    assert "fails: ValueError: every=2 leaves no exit" in capsys.readouterr().out


def test_another_torch_is_not_comparable(golden, capsys) -> None:
    """Golden records hold for the torch that they name: exit code 4 for another one."""
    text = record(golden).read_text()
    content = json.loads(text)
    record(golden).write_text(text.replace(f'"{content["torch"]}"', '"1.0.0"', 1))
    assert compare_golden(golden, CHOSEN) == 4
    assert "recorded with torch 1.0.0" in capsys.readouterr().err


def test_without_golden_records_there_is_nothing_to_compare(tmp_path) -> None:
    """An empty folder is bad input, with how to fill it."""
    with pytest.raises(BadInput, match="--update writes them"):
        compare_golden(tmp_path, CHOSEN)


def test_the_default_place_is_tracked() -> None:
    """The golden records lie where git keeps them."""
    assert str(BASELINE) == "results/baseline"
