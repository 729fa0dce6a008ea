"""The verbs compare, nightly and trend on the command line: exit codes and what they write."""

from __future__ import annotations

import json

import pytest

from bench.cli import main
from bench.regress.compare import with_default_experiment
from bench.regress.simulate import error_rates


def test_the_exit_code_is_the_verdict(tree, tmp_path, capsys) -> None:
    """0 for an unchanged run, 1 for a slower one; body and JSON verdict are written."""
    old, same, slow = (tree(name, moe=cost) for name, cost in (("a", 1.2), ("b", 1.2), ("c", 1.4)))
    assert main(["compare", str(old.folder), str(same.folder)]) == 0
    out = tmp_path / "out"
    assert main(["compare", str(old.folder), str(slow.folder), "--out", str(out)]) == 1
    assert (out / "body.md").read_text() in capsys.readouterr().out
    assert json.loads((out / "verdict.json").read_text())["outcome"] == "regressed"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["compare", "nowhere", "nowhere"], "no such folder"),
        (["compare", "one"], "needs BASELINE and CANDIDATE"),
        (["compare", "one", "two", "three"], "needs BASELINE and CANDIDATE"),
        (["compare", "--update", "one", "two"], "compare --exact --update"),
        (["compare", "--exact", "one", "two"], "at most one folder"),
        (["compare", "--rev", "a", "b", "--rerun", "c"], "--rerun is for folders"),
        (["compare", "--exact", "--rev", "a", "b"], "--rev does not go with --exact"),
        (["compare", "--exact", "--rerun", "c"], "--rerun does not go with --exact"),
        (["compare", "--exact", "--out", "c"], "--out does not go with --exact"),
        (["trend", "nowhere"], "no history"),
    ],
)
def test_bad_usage_is_one_sentence(arguments, words, tmp_path, monkeypatch, capsys) -> None:
    """Exit code 2 and one message, without a traceback."""
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    assert words in capsys.readouterr().err


def test_revisions_run_the_nightly_by_default() -> None:
    """Overrides that choose an experiment, a task or a method stand alone."""
    assert with_default_experiment(["seed=1"]) == ["experiment=nightly", "seed=1"]
    assert with_default_experiment(["task=text"]) == ["task=text"]


def test_the_simulation_prints_rates_and_power() -> None:
    """Every figure in the documentation is printed, with the upper bound of a zero."""
    text = "\n".join(figure.text for figure in error_rates(num_nights=20))
    assert "K=20, first look" in text
    assert "K=30, first look" in text
    assert "0 of 20 (at most 15.00%)" in text
    assert "two processes of the same code differ by 1%" in text
    assert "16 metrics and 2 controls: green in" in text
