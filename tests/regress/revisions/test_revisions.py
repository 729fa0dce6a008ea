"""Worktrees and environments: what is shared, what each revision installs, what it may see."""

from __future__ import annotations

import sys
import textwrap
import zipfile
from pathlib import Path

import pytest

from bench.regress.revisions.worktrees import checked_out
from bench.regress.sides import BadInput

ROOT = Path(__file__).parents[3]
# An environment in no time: this interpreter under another name, and what the recipe could see.
MAKEFILE = """
VENV := .venv
$(VENV)/.run:
\tmkdir -p $(VENV)/bin
\tenv > $(VENV)/seen
\tln -s $(PYTHON) $(VENV)/bin/python
"""
FAILING = """
.venv/.run:
\t@echo 'no wheel for you' >&2; exit 1
"""


def locked(toy, lock: str, makefile: str = MAKEFILE, **changes) -> str:
    """A revision with this lock and Makefile."""
    (toy.folder / "constraints.txt").write_text(lock)
    (toy.folder / "Makefile").write_text(makefile)
    return toy.commit(**changes)


def test_equal_locks_share_this_interpreter(toy) -> None:
    """Nothing is installed where both revisions are locked to the same versions."""
    old, new = locked(toy, "torch==1\n", FAILING), locked(toy, "torch==1\n", FAILING, pass_s=0.2)
    with checked_out(toy.folder, [old, new], toy.locks) as revisions:
        assert [revision.python for revision in revisions] == [sys.executable] * 2


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('dependencies = ["torch"]', 'dependencies = ["torch", "rich"]'),
        (
            "[project.entry-points",
            "[project.optional-dependencies]\ntasks = ['x']\n[project.entry-points",
        ),
    ],
)
def test_dependencies_are_part_of_the_lock(toy, before, after) -> None:
    """Another requirement in pyproject.toml is another environment, as another pin is."""
    old = locked(toy, "torch==1\n")
    project = toy.folder / "pyproject.toml"
    project.write_text(project.read_text().replace(before, after, 1))
    with checked_out(toy.folder, [old, locked(toy, "torch==1\n")], toy.locks) as revisions:
        assert len({revision.python for revision in revisions}) == 2


def test_other_locks_get_an_environment_each(toy, monkeypatch) -> None:
    """Each is made by the revision's Makefile in its own worktree: without secrets, and without
    what the make that started us was told (`make nightly VENV=... PYTHON=...`)."""
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    monkeypatch.setenv("MAKEFLAGS", " -- VENV=/elsewhere PYTHON=/nowhere")
    monkeypatch.setenv("PYTHONPATH", "/caller")
    old, new = locked(toy, "torch==1\n"), locked(toy, "torch==2\n")
    with checked_out(toy.folder, [old, new], toy.locks) as revisions:
        for revision in revisions:
            assert revision.python == str(revision.folder / ".venv" / "bin" / "python")
            assert str(Path(revision.python).readlink()) == sys.executable
            seen = (revision.folder / ".venv" / "seen").read_text()
            assert "secret" not in seen
            assert "/caller" not in seen
    assert toy.git("worktree", "list").count("\n") == 0


def test_a_night_runs_each_side_in_its_own_environment(toy) -> None:
    """A whole night over two locks: planned, measured and judged as with one."""
    verdict = toy.night(locked(toy, "torch==1\n"), locked(toy, "torch==2\n", pass_s=0.108))
    assert verdict.outcome == "regressed"
    assert {row.judgement for row in verdict.controls} == {"equal"}


@pytest.mark.parametrize(
    ("makefile", "words"), [(FAILING, "no wheel for you"), ("other:\n", "No rule to make target")]
)
def test_an_environment_that_cannot_be_made_is_bad_input(toy, makefile, words) -> None:
    """The revision is named, with make's last words, and no worktree stays behind."""
    old, new = locked(toy, "torch==1\n"), locked(toy, "torch==2\n", makefile)
    with pytest.raises(BadInput, match=f"^{new}: the environment .*{words}"):
        toy.night(old, new)
    assert toy.git("worktree", "list").count("\n") == 0


@pytest.mark.parametrize("text", ["not toml [", "[tool]\n", "[project]\nversion = '1'\n"])
def test_a_damaged_project_is_bad_input(toy, text) -> None:
    """A revision whose pyproject.toml says nothing is named."""
    old = toy.commit()
    (toy.folder / "pyproject.toml").write_text(text)
    new = toy.commit()
    with pytest.raises(BadInput, match=f"{new}: no readable pyproject.toml"):
        toy.night(old, new)


def test_another_repository_is_bad_input(toy) -> None:
    """Without condbench in it, the code that is installed here must not stand in for it."""
    (toy.folder / "bench" / "nightly" / "planning.py").unlink()
    revision = toy.commit()
    with pytest.raises(BadInput, match=r"no bench/nightly/planning\.py in that revision"):
        toy.night(revision, revision)


def test_edits_that_are_not_committed_are_told(toy) -> None:
    """What is compared are commits: a changed file beside them is a note."""
    revision = toy.commit()
    (toy.folder / "toy.json").write_text("{}")
    verdict = toy.night(revision, revision)
    assert "1 file(s) with changes not committed: not compared" in verdict.notes


# A build backend without dependencies: an editable wheel of the toy project.
BACKEND = """
import zipfile, tomllib
from pathlib import Path

def build_editable(folder, config_settings=None, metadata_directory=None):
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    needs = "".join(f"Requires-Dist: {name}\\n" for name in project["dependencies"])
    head = "Metadata-Version: 2.1\\nName: condbench\\nVersion: 0\\nProvides-Extra: tasks\\n"
    info = "condbench-0.dist-info"
    files = {"condbench.pth": f"{Path.cwd()}\\n", f"{info}/METADATA": head + needs,
             f"{info}/WHEEL": "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n"}
    files[f"{info}/RECORD"] = "".join(f"{name},,\\n" for name in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(Path(folder, "condbench-0-py3-none-any.whl"), "w") as wheel:
        for name, text in files.items():
            wheel.writestr(name, text)
    return "condbench-0-py3-none-any.whl"

build_wheel = build_editable
"""
TOY_BUILD = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
[project]
name = "condbench"
version = "0"
dependencies = ["tinydep"]
[project.entry-points."condbench.methods"]
dense = "methods.controls.dense:Dense"
"""


def write_wheel(folder: Path, name: str, version: str) -> None:
    """A wheel with nothing in it but its name."""
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": "",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{each},,\n" for each in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        for each, text in files.items():
            wheel.writestr(each, text)


@pytest.mark.soak
def test_the_real_makefile_installs_what_each_lock_says(toy, tmp_path, monkeypatch) -> None:
    """Real venvs and pip over a folder of wheels: 1.0 on one side, 2.0 on the other, and the night
    says that these versions are not comparable."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    for name, version in (
        ("tinydep", "1.0"),
        ("tinydep", "2.0"),
        ("wheel", "9"),
        ("setuptools", "99"),
    ):
        write_wheel(wheels, name, version)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    (toy.folder / "backend.py").write_text(textwrap.dedent(BACKEND))
    (toy.folder / "pyproject.toml").write_text(TOY_BUILD)
    makefile = (ROOT / "Makefile").read_text()
    asked = {"ask_versions": ["tinydep"], "methods": ["dense"]}
    old = locked(toy, "tinydep==1.0\n", makefile, **asked)
    verdict = toy.night(old, locked(toy, "tinydep==2.0\n", makefile, **asked))
    assert (verdict.outcome, verdict.exit_code) == ("not comparable", 4)
    assert verdict.differences == ["digits/transformer/dense/seed0: version of tinydep 1.0 -> 2.0"]
