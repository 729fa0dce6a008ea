"""Environments: what is shared, what each revision installs, by what, and what it may see."""

from __future__ import annotations

import json
import os
import sys
import textwrap
import zipfile
from pathlib import Path

import pytest

from bench.regress.checkouts import environments
from bench.regress.checkouts.environments import find_uv
from bench.regress.checkouts.worktrees import checked_out
from bench.regress.verdict import BadInput

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
    """Each is made by the revision's Makefile in its own worktree: without secrets, and without the
    variables of a make above (`make nightly VENV=... PYTHON=...`)."""
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
    """The revision is named, with the end of make's output, and no worktree stays behind."""
    old, new = locked(toy, "torch==1\n"), locked(toy, "torch==2\n", makefile)
    with pytest.raises(BadInput, match=f"^{new}: the environment .*{words}"):
        toy.night(old, new)
    assert toy.git("worktree", "list").count("\n") == 0


# uv without a network: it notes how it is called, and `uv venv` links this interpreter.
UV = f"""#!{sys.executable} -S
import json, os, sys
arguments = sys.argv[1:]
with open(os.environ["UV_CALLS"], "a") as file:
    file.write(json.dumps([arguments, os.getcwd(), "WANDB_API_KEY" in os.environ]) + "\\n")
if os.environ.get("UV_FAILS") == arguments[0]:
    sys.exit("no index for you")
if arguments[0] == "venv":
    os.makedirs(os.path.join(arguments[-1], "bin"))
    os.symlink(arguments[2], os.path.join(arguments[-1], "bin", "python"))
"""


@pytest.fixture
def uv_calls(tmp_path, monkeypatch):
    """Puts the recording uv on the PATH; uv_calls(): (arguments, folder, saw a secret) per call."""
    program, log = tmp_path / "path" / "uv", tmp_path / "uv.jsonl"
    program.parent.mkdir()
    program.write_text(UV)
    program.chmod(0o755)
    monkeypatch.setattr(environments, "find_uv", find_uv)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("UV_CALLS", str(log))
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    return lambda: [json.loads(line) for line in log.read_text().splitlines()]


def test_uv_installs_where_it_is_there(toy, tmp_path, uv_calls) -> None:
    """The same recipe as the Makefile's, by uv: an environment with this interpreter, then the
    pinned build tools, then the revision without build isolation. No make, no secrets."""
    old, new = locked(toy, "torch==1\n", FAILING), locked(toy, "torch==2\n", FAILING)
    with checked_out(toy.folder, [old, new], toy.locks) as revisions:
        for revision in revisions:
            assert revision.python == str(revision.folder / ".venv" / "bin" / "python")
        first, second = (revision.folder for revision in revisions)
    calls = uv_calls()
    assert [folder for _, folder, _ in calls] == [str(first)] * 3 + [str(second)] * 3
    assert not any(saw_secret for *_, saw_secret in calls)
    install = ["pip", "install", "--python", str(first / ".venv" / "bin" / "python")]
    install += ["-c", "constraints.txt"]
    assert [arguments for arguments, *_ in calls[:3]] == [
        ["venv", "--python", sys.executable, str(first / ".venv")],
        [*install, "setuptools", "wheel"],
        [*install, "--no-build-isolation", "-e", ".[tasks]"],
    ]


@pytest.mark.parametrize("fails", ["venv", "pip"])
def test_where_uv_fails_the_makefile_has_its_turn(toy, monkeypatch, uv_calls, fails) -> None:
    """An index that only pip is configured for: uv's half-made environment goes, make makes one."""
    monkeypatch.setenv("UV_FAILS", fails)
    old, new = locked(toy, "torch==1\n"), locked(toy, "torch==2\n")
    with checked_out(toy.folder, [old, new], toy.locks) as revisions:
        assert all((revision.folder / ".venv" / "seen").exists() for revision in revisions)
    assert uv_calls()


def test_without_uv_the_makefile_is_called(toy, monkeypatch, tmp_path) -> None:
    """The whole command line of make: this interpreter, the environment's place, the target."""
    log, program = tmp_path / "calls", tmp_path / "path" / "make"
    program.parent.mkdir()
    script = 'mkdir -p "$2/.venv/bin" && ln -s "${3#PYTHON=}" "$2/.venv/bin/python"'
    program.write_text(f'#!/bin/sh\necho "$@" >> {log}\n{script}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    old, new = locked(toy, "torch==1\n"), locked(toy, "torch==2\n")
    with checked_out(toy.folder, [old, new], toy.locks) as revisions:
        folders = [revision.folder for revision in revisions]
    assert log.read_text().splitlines() == [
        f"-C {folder} PYTHON={sys.executable} VENV=.venv .venv/.run" for folder in folders
    ]


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
    """Real venvs and pip over a folder of wheels: 1.0 on one side, 2.0 on the other, which makes
    the night not comparable."""
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
    plan = {"versions_of": ["tinydep"], "methods": ["dense"]}
    old = locked(toy, "tinydep==1.0\n", makefile, **plan)
    verdict = toy.night(old, locked(toy, "tinydep==2.0\n", makefile, **plan))
    assert (verdict.outcome, verdict.exit_code) == ("not comparable", 4)
    assert verdict.differences == ["digits/transformer/dense/seed0: version of tinydep 1.0 -> 2.0"]
