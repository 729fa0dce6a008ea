"""Worktrees: what is a revision, what it is run by, and what a night reports about it."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from bench.records.scratch import Scratch
from bench.regress.checkouts.worktrees import INTERFACES, checked_out
from bench.regress.verdict import BadInput

# A night that is killed with both worktrees made.
KILLED = """
import os, signal, sys, tempfile
from pathlib import Path
from bench.records.scratch import Scratch
from bench.regress.checkouts.worktrees import checked_out
repository, revision, tempfile.tempdir = sys.argv[1:]
with Scratch() as scratch, checked_out(Path(repository), [revision] * 2, scratch):
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("text", ["not toml [", "[tool]\n", "[project]\nversion = '1'\n"])
def test_a_damaged_project_is_bad_input(toy, text) -> None:
    """A revision whose pyproject.toml has no project name is named."""
    old = toy.commit()
    (toy.folder / "pyproject.toml").write_text(text)
    new = toy.commit()
    with pytest.raises(BadInput, match=f"{new}: no readable pyproject.toml"):
        toy.night(old, new)


def test_another_repository_is_bad_input(toy) -> None:
    """Without condbench in it, the code that is installed here must not run in its place."""
    (toy.folder / INTERFACES[0].path).unlink()
    revision = toy.commit()
    with pytest.raises(BadInput, match=rf"no {INTERFACES[0].path} in that revision"):
        toy.night(revision, revision)


def test_uncommitted_edits_are_a_note(toy) -> None:
    """Commits are compared; a changed file beside them is reported."""
    revision = toy.commit()
    (toy.folder / "toy.json").write_text("{}")
    verdict = toy.night(revision, revision)
    assert "1 file(s) with uncommitted changes: not compared" in verdict.notes


def test_a_killed_night_leaves_nothing_to_the_next(toy, tmp_path, monkeypatch) -> None:
    """Its worktrees are removed from the disk and from git's list; those of a night that runs
    stay."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    Path(tempfile.gettempdir()).mkdir()
    revision = toy.commit()
    killed = [sys.executable, "-c", KILLED, str(toy.folder), revision]
    assert subprocess.run([*killed, tempfile.gettempdir()]).returncode == -signal.SIGKILL
    (left,) = Path(tempfile.gettempdir()).iterdir()
    assert str(left / "tree1") in toy.git("worktree", "list")
    with Scratch() as own, checked_out(toy.folder, [revision], own):
        assert not left.exists()
        toy.night(revision, revision)
        assert (own / "tree0" / "toy.json").exists()
    assert toy.git("worktree", "list").count("\n") == 0
    assert list(Path(tempfile.gettempdir()).iterdir()) == []


@pytest.mark.parametrize("interface", INTERFACES)
def test_a_revision_is_run_by_its_own_modules(toy, interface) -> None:
    """Also under the names that they had in earlier revisions: a night compares across renaming."""
    toy.provide(interface)
    old = toy.commit()
    toy.provide(INTERFACES[0])
    new = toy.commit(pass_s=0.108)
    with checked_out(toy.folder, [old, new], toy.locks) as revisions:
        assert [revision.interface for revision in revisions] == [interface, INTERFACES[0]]
    assert toy.night(old, new).outcome == "regressed"
