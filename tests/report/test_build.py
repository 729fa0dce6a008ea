"""The whole report: files, problems, and what may be imported on the way."""

from __future__ import annotations

import json
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest

from bench.report import NoRecords, build

FILES = [
    *("table.md", "table.tex", "table.csv", "speedup.png"),
    *("answers.md", "answers.csv", "report.html"),
]


def test_a_report_is_written_beside_the_records(make, tree):
    """Seven files appear in `report` within the first folder, and the text is the tables'."""
    root = tree(make(), make("moe", share=0.5, speedup=1.5))
    made = build([root / "demo"])
    assert made.paths == [root / "demo" / "report" / name for name in FILES]
    assert all(path.stat().st_size > 0 for path in made.paths)
    assert "moe" in made.text
    assert made.problems == []
    text = (root / "demo" / "report" / "table.md").read_text()
    assert text.startswith("# condbench: demo\n")
    assert "](speedup.png)" in text


def test_a_report_can_be_written_elsewhere(make, tree, tmp_path: Path):
    """`out` is made where it does not exist; the result tree stays untouched."""
    root = tree(make())
    before = sorted(root.rglob("*"))
    made = build([root / "demo"], tmp_path / "far" / "away")
    assert {path.parent for path in made.paths} == {tmp_path / "far" / "away"}
    assert [path for path in sorted(root.rglob("*")) if "far" not in path.parts] == before


def test_operating_points_bring_a_second_figure(make, tree):
    """quality_cost.png exists where there is a curve, and an old one is removed where not."""
    points = [{"settings": {"k": k}, "metrics": {}} for k in (1, 2)]
    root = tree(make("moe", points=points))
    figure = root / "demo" / "report" / "quality_cost.png"
    assert figure in build([root / "demo"]).paths
    tree(make("moe", started=2000))
    assert figure not in build([root / "demo"]).paths
    assert not figure.exists()


def test_problems_name_what_was_left_out(make, tree):
    """A damaged record and a superseded one are both named; the page shows them too."""
    root = tree(make("moe", started=1), make("moe", started=2))
    (root / "demo" / "record.json").write_text("{")
    made = build([root])
    assert len(made.problems) == 2
    assert "not readable as JSON" in made.problems[0]
    assert "a newer trial" in made.problems[1]
    assert "not readable as JSON" in (root / "report" / "report.html").read_text()


def test_several_trees_are_joined(make, tmp_path: Path):
    """Two machines' results give two tables in one report."""
    from bench.records.record import write_record

    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_record(tmp_path / name, make("moe", labels={"hardware": f"cpu-{name}"}))
    made = build([tmp_path / "a", tmp_path / "b"])
    assert [table.hardware for table in made.tables] == ["cpu-a", "cpu-b"]
    assert made.paths[0].parent == tmp_path / "a" / "report"


def test_the_same_records_make_the_same_report(make, tree):
    """Text, page and figures do not depend on the run."""
    root = tree(make(), make("moe"), make("moe", labels={"seed": 1}))
    first = [path.read_bytes() for path in build([root]).paths]
    assert [path.read_bytes() for path in build([root]).paths] == first


EVIL = "$\\frac{$ \u202e \x1b]0;owned\x07 \x9b2J `x` <b>|[a](b)"


def evil_record(make) -> dict[str, object]:
    """A record in which every free word is what some reader stumbles over or obeys."""
    names = ("experiment", "hardware", "task", "backbone", "method", "variant")
    points = [{"settings": {EVIL: EVIL, "k": k}, "metrics": {}} for k in (1, 2)]
    made = make("moe", share=0.5, speedup=1.5, labels=dict.fromkeys(names, EVIL), points=points)
    content = json.loads(json.dumps(made.model_dump(mode="python")))
    content["metrics"]["infer/quality"]["unit"] = EVIL  # a task's own; others are fixed
    content["points"][1]["metrics"] = content["metrics"]
    content["quality"]["references"] = {EVIL: 0.5}
    content["notes"] = [EVIL]
    content["config"]["measure"] = {"profile": EVIL}
    return content


def test_hostile_names_harm_no_report(make, tree):
    """Half TeX, reversed lines and terminal commands in a record stop and steer nothing."""
    root = tree(make(), make("moe", share=0.5, speedup=1.4))
    (root / "foreign").mkdir()
    (root / "foreign" / "record.json").write_text(json.dumps(evil_record(make)))
    made = build([root])
    assert {path.name for path in made.paths} >= {*FILES, "quality_cost.png"}
    assert not any(
        unicodedata.category(c) in ("Cc", "Cf", "Cs") for c in made.text.replace("\n", "")
    )
    title, *_ = (root / "report" / "table.md").read_text().splitlines()
    assert title == "# condbench: $\\\\frac{$ \\]0;owned 2J \\`x\\` &lt;b>\\|\\[a\\](b), demo"
    assert "\x1b" not in (root / "report" / "table.md").read_text()


def test_an_unwritable_folder_is_an_os_error(make, tree):
    """A path below a file cannot be made, and nothing else is swallowed."""
    root = tree(make())
    (root / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        build([root], root / "file" / "report")


def test_nothing_to_report_is_said(tmp_path: Path):
    """An empty folder is no report."""
    with pytest.raises(NoRecords, match="no readable record"):
        build([tmp_path])


def test_reporting_needs_neither_torch_nor_wandb():
    """Reading and showing start without the heavy packages."""
    code = (
        "import sys, bench.report\n"
        "print(sorted({'torch', 'wandb', 'lightning', 'hydra', 'scipy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
