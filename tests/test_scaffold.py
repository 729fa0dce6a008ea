"""`condbench new`: the package is small, works unedited, and is found once installed."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from bench import cli, scaffold
from bench.check import check
from bench.plugins import Plugin
from bench.records.record import read_record
from bench.scaffold import BadName, write


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A new method, unedited."""
    return write("my_gate", tmp_path)


def test_the_package_is_one_method_one_test_one_entry_point(package: Path) -> None:
    """Four files; the entry point names the class."""
    assert sorted(path.name for path in package.iterdir()) == [
        *("README.md", "my_gate.py", "pyproject.toml", "test_my_gate.py"),
    ]
    project = tomllib.loads((package / "pyproject.toml").read_text())["project"]
    assert project["entry-points"] == {"condbench.methods": {"my_gate": "my_gate:MyGate"}}


def test_its_classes_have_at_most_40_lines(package: Path) -> None:
    """The code to read before editing is short."""
    tree = ast.parse((package / "my_gate.py").read_text())
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    lines = sum((node.end_lineno or 0) - node.lineno + 1 for node in classes)
    assert [node.name for node in classes] == ["MyGate", "GatedFFN"]
    assert lines <= 40


def test_its_own_test_passes(package: Path) -> None:
    """pytest in the new folder is green from the start, also inside a clone of this repository."""
    (package.parent / "pyproject.toml").write_text(
        "[tool.pytest.ini_options]\naddopts = '--import-mode=importlib'\n"
    )
    command = [sys.executable, "-W", "error", "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=package, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout


@pytest.mark.soak
def test_its_test_survives_other_names(package: Path) -> None:
    """The example is there to be edited: its classes, module and setting get other names."""
    for file in ("my_gate.py", "pyproject.toml"):
        text = (package / file).read_text()
        for name in ("MyGate", "GatedFFN", "keep"):
            text = text.replace(name, f"{name}2")
        (package / file).write_text(text.replace('"my_gate:', '"other:'))
    (package / "my_gate.py").rename(package / "other.py")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=package, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_it_keeps_every_contract(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The unedited method passes `condbench check`."""
    monkeypatch.syspath_prepend(str(package))
    verdict = check(Plugin("method", "my_gate", "my_gate:MyGate", "my-gate", "0.1.0"))
    sys.modules.pop("my_gate")
    assert verdict.ok, "\n".join(verdict.lines())


@pytest.mark.soak
def test_three_commands_from_nothing_to_a_record(tmp_path: Path) -> None:
    """new, check and run, each a real process, end in a measured record of the new method."""
    site = tmp_path / "env" / "lib" / f"python3.{sys.version_info.minor}" / "site-packages"
    env = {
        **os.environ,
        "PIP_PREFIX": str(tmp_path / "env"),  # beside this repository's own environment
        "PYTHONPATH": os.pathsep.join([str(site), str(tmp_path / "my_gate")]),
    }
    quick = (
        "train.steps=2",
        "measure.processes=1",
        "measure.rounds=6",
        "measure.num_inputs=8",
        "measure.warmup_s=0.1",
    )
    for command in (
        ["new", "my_gate"],
        ["check", "my_gate"],
        ["run", "method=my_gate", "task=digits", *quick, "wandb.mode=disabled"],
    ):
        done = subprocess.run(
            [sys.executable, "-m", "bench.cli", *command],
            cwd=tmp_path,
            env=env,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    (path,) = (tmp_path / "results").glob("**/my_gate*/**/record.json")
    assert read_record(path).status == "ok"


def test_it_keeps_the_style_of_the_house(package: Path) -> None:
    """The template passes the linter of this repository."""
    rules = str(Path(__file__).parents[1] / "pyproject.toml")
    ours = "TID253,I"  # which rooms may import torch, and which packages are this repository's
    command = ["ruff", "check", "--no-cache", "--config", rules, "--ignore", ours, "."]
    command = [sys.executable, "-m", *command]
    done = subprocess.run(command, cwd=package, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_once_installed_it_is_a_choice(package: Path, tmp_path: Path) -> None:
    """pip finds a valid package in it, and condbench finds the method through its metadata."""
    site = tmp_path / "site"
    offline = ("--no-index", "--no-deps", "--no-build-isolation", "--quiet")
    pip = [sys.executable, "-m", "pip", "install", *offline, "--target", str(site), str(package)]
    subprocess.run(pip, check=True)
    code = "from bench.plugins import find, summary; print(summary(find('method', 'my_gate')))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("Skips feed-forward layers for easy tokens;")


def test_new_installs_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The verb writes into --into, installs that folder and prints the next commands."""
    installed: list[Path] = []
    monkeypatch.setattr(scaffold, "install", lambda place: installed.append(place) or "")
    assert cli.main(["new", "my_gate", "--into", str(tmp_path)]) == 0
    assert installed == [tmp_path / "my_gate"]
    printed = capsys.readouterr().out
    assert "condbench check my_gate\n  condbench run method=my_gate task=digits" in printed


def test_a_failed_installation_is_exit_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """pip's error is printed, and the written package stays."""
    monkeypatch.setattr(scaffold, "install", lambda place: "no setuptools here")
    assert cli.main(["new", "my_gate", "--into", str(tmp_path)]) == 1
    assert "not installed: no setuptools here" in capsys.readouterr().err
    assert (tmp_path / "my_gate" / "my_gate.py").exists()


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("my-gate", "is not a module name"),
        ("MyGate", "is not a module name"),
        ("class", "is not a module name"),
        ("../up", "is not a module name"),
        ("é", "is not a module name: begin with a letter, use a to z"),
        ("ﬁlter", "is not a module name"),  # a ligature, which Python reads as fi
        ("_gate", "is not a module name"),
        ("gate_", "is not a module name"),
        ("moe", "exists already"),
        ("torch", "would shadow an installed package"),
    ],
)
def test_invalid_names_are_rejected(tmp_path: Path, name: str, why: str) -> None:
    """A name that is invalid, taken, or shadows a package is rejected; nothing is written."""
    with pytest.raises(BadName, match=why):
        write(name, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_left_alone(package: Path) -> None:
    """Nothing is overwritten."""
    (package / "my_gate.py").write_text("# mine")
    with pytest.raises(BadName, match="exists already"):
        write("my_gate", package.parent)
    assert (package / "my_gate.py").read_text() == "# mine"
