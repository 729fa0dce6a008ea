"""What runs a revision: variables that select its code, and an interpreter with its packages.

The worktree goes first on PYTHONPATH, so that `bench` and `methods` are the revision's; its entry
points stand beside it as metadata. Where the locks (constraints.txt, dependencies) of the two
revisions are equal, this interpreter runs both. Otherwise each gets an environment of its own: by
uv where uv is installed, else by the revision's Makefile (venv and pip).
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.records.redaction import without_secrets
from bench.regress.checkouts.commands import Limits, Unbounded, run_command
from bench.regress.verdict import BadInput

LOCK = "constraints.txt"
EXTRA = "tasks"  # what tasks and workers need, without the tools of development
# What `make nightly PYTHON=... VENV=...` hands to the processes below it: it would redirect the
# revision's own make.
CALLERS = ("MAKEFLAGS", "MFLAGS", "MAKEOVERRIDES", "MAKELEVEL", "PYTHONPATH")
MAX_OUTPUT = 500  # characters of an installer's output in a message
LIMITS = Limits(max_bytes=16 * 2**20, max_errors=MAX_OUTPUT, timeout_s=3600.0)


def variables_of(folder: Path, project: dict[str, Any]) -> dict[str, str]:
    """Variables with which an interpreter finds the revision's code and entry points."""
    site = folder / ".site"
    _write_metadata(site / f"{project['name']}-0.dist-info", project)
    conf = folder / "bench" / "conf"
    if not conf.exists():  # the package bench.conf is conf/ beside it
        conf.symlink_to(folder / "conf", target_is_directory=True)
    path = os.pathsep.join([str(folder), str(site)])
    # No bytecode: a worktree lives for one night.
    return {**_inherited(), "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}


def _inherited(*excluded: str) -> dict[str, str]:
    """This process's variables without secrets, and without those `excluded`."""
    return {key: value for key, value in without_secrets().items() if key not in excluded}


def _write_metadata(place: Path, project: dict[str, Any]) -> None:
    """The .dist-info folder in which importlib.metadata finds the revision's entry points.

    The environment's own metadata may be of another revision; the first on the path counts.
    """
    place.mkdir(parents=True)
    metadata = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: 0\n"
    (place / "METADATA").write_text(metadata, encoding="utf-8")
    lines = []
    for group, points in project.get("entry-points", {}).items():
        lines += [f"[{group}]", *(f"{name} = {target}" for name, target in points.items())]
    (place / "entry_points.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def interpreters(
    names: Sequence[str], folders: Sequence[Path], projects: Sequence[dict[str, Any]]
) -> list[str]:
    """This interpreter for all if their locks are equal, else one of its own for each.

    Raises BadInput where an environment cannot be installed.
    """
    locks = {_lock(*each) for each in zip(folders, projects, strict=True)}
    if len(locks) == 1:
        return [sys.executable] * len(folders)
    return [_install(*each) for each in zip(names, folders, strict=True)]


def _lock(folder: Path, project: dict[str, Any]) -> str:
    """What decides the environment: pinned versions and dependencies."""
    pinned = folder / LOCK
    required = (project.get("dependencies"), project.get("optional-dependencies", {}).get(EXTRA))
    text = pinned.read_text(encoding="utf-8") if pinned.exists() else ""
    return f"{text}{required}"


def _install(name: str, folder: Path) -> str:
    """The interpreter of a new environment in the revision's folder. Raises BadInput."""
    python = folder / ".venv" / "bin" / "python"
    uv = find_uv()
    if uv and _run(uv_commands(uv, folder, python), folder) is None and python.exists():
        return str(python)
    # uv reads neither pip.conf nor PIP_* variables, so that a private index may be unknown to it:
    # where it fails, venv and pip still have their turn.
    shutil.rmtree(folder / ".venv", ignore_errors=True)
    problem = _run([make_command(folder)], folder)
    if problem is not None or not python.exists():
        why = problem or "no python in it"
        raise BadInput(f"{name}: the environment of that revision cannot be installed: {why}")
    return str(python)


def find_uv() -> str | None:
    """The path of uv, which installs in a tenth of pip's time; None where it is not installed."""
    return shutil.which("uv")


def uv_commands(uv: str, folder: Path, python: Path) -> list[list[str]]:
    """The Makefile's recipe of `.venv/.run`, as commands of uv."""
    # --python: an active environment of the caller must not be installed into.
    install = [uv, "pip", "install", "--python", str(python)]
    install += ["-c", LOCK] if (folder / LOCK).exists() else []
    return [
        [uv, "venv", "--python", sys.executable, str(python.parents[1])],
        # Built without isolation, so that the pinned setuptools builds and nothing else is fetched.
        [*install, "setuptools", "wheel"],
        [*install, "--no-build-isolation", "-e", f".[{EXTRA}]"],
    ]


def make_command(folder: Path) -> list[str]:
    """The revision's own Makefile, which makes `.venv` with venv and pip."""
    return ["make", "-C", str(folder), f"PYTHON={sys.executable}", "VENV=.venv", ".venv/.run"]


def _run(commands: Sequence[Sequence[str]], folder: Path) -> str | None:
    """Run the commands in `folder`, without secrets; the end of the first failure's output."""
    for command in commands:
        try:
            run = run_command(command, folder, _inherited(*CALLERS), LIMITS)
        except Unbounded as error:
            return f"{command[0]} {error}"
        if run.exit_code:
            return (run.errors or run.output).strip()[-MAX_OUTPUT:] or f"exit code {run.exit_code}"
    return None
