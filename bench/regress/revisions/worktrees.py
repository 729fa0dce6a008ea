"""Two git revisions, each in a worktree of its own, run by one interpreter or by its own.

A worktree goes first on PYTHONPATH, so that `bench` and `methods` are the revision's; its entry
points stand beside it as metadata. Where the locks (constraints.txt, dependencies) of the two
differ, each gets an environment of its own from its Makefile.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.regress.sides import BadInput

LOCK = "constraints.txt"
SECRETS = ("WANDB_API_KEY", "GH_TOKEN", "GITHUB_TOKEN")  # no revision needs to see them
MAKES_OWN = ("MAKEFLAGS", "MFLAGS", "MAKEOVERRIDES", "MAKELEVEL", "PYTHONPATH")  # of the caller's
PLANNER = Path("bench") / "nightly" / "planning.py"


@dataclass(frozen=True)
class Revision:
    """A commit, checked out: `python` runs it with `environment`."""

    name: str  # as the user said it
    commit: str
    folder: Path
    python: str
    environment: dict[str, str]

    def __str__(self) -> str:
        short = self.commit[:12]
        return self.name if self.commit.startswith(self.name) else f"{self.name} ({short})"


@contextmanager
def checked_out(repository: Path, names: Sequence[str], where: Path) -> Iterator[list[Revision]]:
    """The revisions called `names`, one worktree each below `where`; removed afterwards.

    Raises BadInput for a folder outside this project's repository, an unknown revision, and where
    git or an installation fails.
    """
    root = Path(_git(repository, "rev-parse", "--show-toplevel"))
    commits = [_commit(root, name) for name in names]
    folders = [where / f"tree{number}" for number in range(len(names))]
    _git(root, "worktree", "prune")  # of a night that was killed
    try:
        for folder, commit in zip(folders, commits, strict=True):
            _git(root, "worktree", "add", "--detach", "--quiet", str(folder), commit)
        projects = [_project(*each) for each in zip(names, folders, strict=True)]
        pythons = _pythons(names, folders, projects)
        environments = [_environment(*each) for each in zip(folders, projects, strict=True)]
        yield [
            Revision(*each)
            for each in zip(names, commits, folders, pythons, environments, strict=True)
        ]
    finally:
        for folder in folders:
            if folder.exists():
                _git(root, "worktree", "remove", "--force", str(folder))


def _commit(root: Path, name: str) -> str:
    try:
        return _git(
            root, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}"
        )
    except BadInput as error:
        raise BadInput(
            f"{name!r} is no revision of {root}; git log --oneline lists them"
        ) from error


def uncommitted(repository: Path) -> list[str]:
    """A line where files differ from the commit that is checked out: they are not compared."""
    changed = _git(repository, "status", "--porcelain", "--untracked-files=no").splitlines()
    return [f"{len(changed)} file(s) with changes not committed: not compared"] if changed else []


def _project(name: str, folder: Path) -> dict[str, Any]:
    """The revision's [project]. Raises BadInput where there is none, or nothing to plan with."""
    try:
        text = (folder / "pyproject.toml").read_text(encoding="utf-8")
        project = dict(tomllib.loads(text)["project"])
        project["name"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{name}: no readable pyproject.toml in that revision ({error})") from error
    if not (folder / PLANNER).is_file():
        raise BadInput(
            f"{name}: no {PLANNER} in that revision: it is older than the nightly, or this is not "
            "condbench's own repository"
        )
    return project


def _environment(folder: Path, project: dict[str, Any]) -> dict[str, str]:
    """Variables with which an interpreter finds the revision's code and entry points."""
    site = folder / ".site"
    _write_metadata(site / f"{project['name']}-0.dist-info", project)
    conf = folder / "bench" / "conf"
    if not conf.exists():  # the package bench.conf is conf/ beside it
        conf.symlink_to(folder / "conf", target_is_directory=True)
    path = os.pathsep.join([str(folder), str(site)])
    return {**_ours(), "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}


def _ours(*less: str) -> dict[str, str]:
    """This process's variables without secrets, and without those named `less`."""
    return {key: value for key, value in os.environ.items() if key not in (*SECRETS, *less)}


def _write_metadata(place: Path, project: dict[str, Any]) -> None:
    place.mkdir(parents=True)
    (place / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: 0\n")
    lines = []
    for group, points in project.get("entry-points", {}).items():
        lines += [f"[{group}]", *(f"{name} = {target}" for name, target in points.items())]
    (place / "entry_points.txt").write_text("\n".join(lines) + "\n")


def _pythons(
    names: Sequence[str], folders: Sequence[Path], projects: Sequence[dict[str, Any]]
) -> list[str]:
    """This interpreter for all if their locks are equal, else one environment each."""
    locks = {_lock(*each) for each in zip(folders, projects, strict=True)}
    if len(locks) == 1:
        return [sys.executable] * len(folders)
    return [_installed(*each) for each in zip(names, folders, strict=True)]


def _installed(name: str, folder: Path) -> str:
    """The interpreter of an environment that the revision's own Makefile makes in its folder.

    Without secrets, and without what a `make` that started us was told. Raises BadInput.
    """
    command = ["make", "-C", str(folder), f"PYTHON={sys.executable}", "VENV=.venv", ".venv/.run"]
    run = subprocess.run(command, capture_output=True, text=True, env=_ours(*MAKES_OWN))
    python = folder / ".venv" / "bin" / "python"
    if run.returncode or not python.exists():
        said = (run.stderr or run.stdout).strip()[-500:]
        raise BadInput(f"{name}: the environment of that revision cannot be installed: {said}")
    return str(python)


def _lock(folder: Path, project: dict[str, Any]) -> str:
    """What decides the environment: pinned versions and dependencies."""
    pinned = folder / LOCK
    asked = (project.get("dependencies"), project.get("optional-dependencies", {}).get("tasks"))
    return f"{pinned.read_text() if pinned.exists() else ''}{asked}"


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    try:
        run = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or str(error)
        raise BadInput(f"git {arguments[0]} failed in {folder}: {said.strip()}") from error
    return run.stdout.strip()
