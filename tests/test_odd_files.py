"""No verb hangs on what stands in the place of a file, writes through it, or raises."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from bench.cli import main
from bench.publish.runs import publish
from bench.records.record import RAW_NAME, RECORD_NAME, TRIAL_NAME, BadRecord
from tests.fakes.odd_files import ODDITIES, at_most, put

PUBLISHED = Path(__file__).parents[1] / "results" / "published" / "moe"
TRIALS = sorted(path.parent for path in PUBLISHED.rglob(RECORD_NAME) if "seed0" in path.parent.name)
PATIENCE_S = 60.0


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Two trials of a published run, in their places below an experiment's folder."""
    for trial in TRIALS[:2]:
        shutil.copytree(trial, tmp_path / "moe" / trial.relative_to(PUBLISHED))
    return tmp_path / "moe"


def beside(tree: Path, name: str) -> list[Path]:
    """A file called `name` for each oddity, in trial folders of their own."""
    first = next(tree.rglob(RECORD_NAME)).parent
    made = []
    for oddity in ODDITIES:
        folder = first.with_name(f"seed9-{oddity}")
        shutil.copytree(first, folder)
        put(oddity, folder / name)
        made.append(folder / name)
    return made


def test_a_report_names_what_is_no_record(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Eight oddities in the place of record.json: the report is made, and each is named."""
    odd = beside(tree, RECORD_NAME)
    with at_most(PATIENCE_S):
        assert main(["report", str(tree)]) == 0
    printed = capsys.readouterr().err
    assert all(f"left out: {path}: " in printed for path in odd)


def test_a_report_writes_through_nothing(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A FIFO and a link in the place of its files are replaced; a folder is an error with its path,
    and leaves the other files as they are."""
    place = tree / "report"
    place.mkdir()
    (tree / "target").write_text("kept")
    put("fifo", place / "table.md")
    (place / "table.csv").symlink_to(tree / "target")
    with at_most(PATIENCE_S):
        assert main(["report", str(tree)]) == 0
    assert (tree / "target").read_text() == "kept"
    before = (place / "table.md").read_bytes()
    assert before.startswith(b"# condbench")
    put("folder", place / "report.html")
    (place / "table.md").write_text("earlier")
    with at_most(PATIENCE_S):
        assert main(["report", str(tree)]) == 2
    assert f"{place / 'report.html'}: Is a directory" in capsys.readouterr().err
    assert (place / "table.md").read_text() == "earlier"


@pytest.mark.parametrize("name", [RECORD_NAME, RAW_NAME])
def test_a_comparison_refuses_what_it_cannot_read(
    tree: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2 and the file's name, for each oddity in the place of a record or its rounds."""
    for oddity in ODDITIES:
        other = tmp_path / oddity
        shutil.copytree(tree, other)
        path = next(other.rglob(name))
        put(oddity, path)
        with at_most(PATIENCE_S):
            code = main(["compare", str(tree), str(other)])
        printed = capsys.readouterr().err
        # Without a raw.npz there are no rounds to judge by: that is not damage.
        absent = name == RAW_NAME and oddity == "nowhere"
        assert (code, str(path) in printed) == (2, True) or absent, (oddity, printed)
        shutil.rmtree(other)


def test_nothing_odd_is_sent(tree: Path) -> None:
    """Each is refused by name before wandb is even imported."""
    for path in beside(tree, RECORD_NAME):
        with at_most(PATIENCE_S), pytest.raises(BadRecord, match=str(path)):
            publish(path.parent, "offline", "condbench")


@pytest.mark.parametrize("verb", ["trend", "publish"])
def test_history_and_verdict_are_bad_input(
    verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2 with one line, whatever stands in the place of history and verdict.json."""
    for oddity in ODDITIES:
        folder = tmp_path / oddity
        folder.mkdir()
        put(oddity, folder / {"trend": "h.jsonl", "publish": "verdict.json"}[verb])
        with at_most(PATIENCE_S):
            code = main([verb, str(folder)])
        printed = capsys.readouterr().err
        assert "Traceback" not in printed
        assert code in (0, 2), oddity
        assert code == 0 or printed.startswith("condbench: ")


def test_a_plan_is_not_stopped_by_a_trial_file(tree: Path) -> None:
    """`python -m bench.trial FOLDER` names it, in a sentence."""
    from bench.trial.trial import BadTrial, read_trial

    for path in beside(tree, TRIAL_NAME):
        with at_most(PATIENCE_S), pytest.raises(BadTrial, match=str(path)):
            read_trial(path.parent)
