"""Two git revisions, each in a worktree of its own, with what is needed to run it."""

from __future__ import annotations

import subprocess
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from bench.records.git import git
from bench.regress.checkouts.environments import interpreters, variables_of
from bench.regress.verdict import BadInput

GIT_TIMEOUT_S = 120.0  # a worktree of a large repository


class Interface(NamedTuple):
    """The two modules that a revision must have: they run in its worktree, as `python -m`."""

    planning: str
    worker: str

    @property
    def path(self) -> Path:
        """The planning module's file in the worktree."""
        return Path(*self.planning.split(".")).with_suffix(".py")


# Newest first. A revision is run by its own modules, so that a renamed module needs a line here:
# without it no night can compare across the renaming.
INTERFACES = (
    Interface("bench.regress.checkouts.planning", "bench.regress.revisions.worker"),
    Interface("bench.nightly.planning", "bench.nightly.worker"),
)


@dataclass(frozen=True)
class Revision:
    """A commit, checked out: `python` runs it with the variables `environment`."""

    name: str  # as on the command line
    commit: str
    folder: Path
    python: str
    environment: dict[str, str]
    interface: Interface = INTERFACES[0]

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
            # Detached: a branch may be checked out in one worktree only.
            _git(root, "worktree", "add", "--detach", "--quiet", str(folder), commit)
        projects = [_read_project(*each) for each in zip(names, folders, strict=True)]
        interfaces = [_find_interface(*each) for each in zip(names, folders, strict=True)]
        pythons = interpreters(names, folders, projects)
        variables = [variables_of(*each) for each in zip(folders, projects, strict=True)]
        parts = zip(names, commits, folders, pythons, variables, interfaces, strict=True)
        yield [Revision(*each) for each in parts]
    finally:
        for folder in folders:
            if folder.exists():
                # --force: the worktree holds files that git does not track, such as .venv.
                _git(root, "worktree", "remove", "--force", str(folder))


def _commit(root: Path, name: str) -> str:
    try:
        # --end-of-options: a name that begins with a hyphen is a name, not an option of git's.
        return _git(
            root, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}"
        )
    except BadInput as error:
        raise BadInput(
            f"{name!r} is not a revision of {root}; git log --oneline lists them"
        ) from error


def uncommitted(repository: Path) -> list[str]:
    """A note where files differ from the commit that is checked out: they are not compared."""
    changed = _git(repository, "status", "--porcelain", "--untracked-files=no").splitlines()
    return [f"{len(changed)} file(s) with uncommitted changes: not compared"] if changed else []


def _read_project(name: str, folder: Path) -> dict[str, Any]:
    """The revision's [project] table. Raises BadInput where there is none."""
    try:
        text = (folder / "pyproject.toml").read_text(encoding="utf-8")
        project = dict(tomllib.loads(text)["project"])
        project["name"]  # a KeyError here, not when the metadata is written
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{name}: no readable pyproject.toml in that revision ({error})") from error
    return project


def _find_interface(name: str, folder: Path) -> Interface:
    """The modules that run in this worktree. Raises BadInput where the revision has none of them.

    Without this check the code that is installed here would run in place of the revision's.
    """
    for interface in INTERFACES:
        if (folder / interface.path).is_file():
            return interface
    raise BadInput(
        f"{name}: no {INTERFACES[0].path} in that revision: it is older than the nightly, or this "
        "is not condbench's own repository"
    )


def _git(folder: Path, *arguments: str) -> str:
    try:
        return git(folder, *arguments, timeout_s=GIT_TIMEOUT_S)
    except (OSError, subprocess.SubprocessError) as error:
        output = getattr(error, "stderr", None) or str(error)
        raise BadInput(f"git {arguments[0]} failed in {folder}: {output.strip()}") from error
