"""Temporary folders: removed with their process, or by the next one where it was killed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.records import scratch
from bench.records.scratch import OWNER, Scratch

# Makes a folder with something in it, prints its path and is killed or waits.
OWNERS = """
import os, signal, sys
from bench.records.scratch import Scratch
scratch = Scratch(sys.argv[1])
folder = scratch.path
(folder / "tree0").mkdir()
(folder / "tree0" / "file").write_text("left")
print(folder, flush=True)
sys.stdin.read() if sys.argv[2] == "wait" else os.kill(os.getpid(), signal.SIGKILL)
"""


def owner(place: Path, what: str) -> subprocess.Popen[str]:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-c", OWNERS, str(place), what], **pipes)


def test_the_folder_of_a_killed_process_is_removed_by_the_next(tmp_path) -> None:
    """With all that is in it; that of a process that lives stays until it ends."""
    with owner(tmp_path, "wait") as alive:
        living = Path(alive.stdout.readline().strip())
        with owner(tmp_path, "die") as dead:
            left = Path(dead.stdout.readline().strip())
        assert (left / "tree0" / "file").exists()
        with Scratch(str(tmp_path)) as own:
            assert sorted(tmp_path.iterdir()) == sorted([living, own])
        alive.communicate(timeout=60)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_ends_with_its_block(tmp_path) -> None:
    """Also where the block fails."""
    made = Scratch(str(tmp_path))
    assert made.path.stat().st_mode & 0o777 == 0o700
    with pytest.raises(FileExistsError), made as folder:
        folder.mkdir()
    assert not made.path.exists()


def test_nothing_else_is_removed(tmp_path, monkeypatch) -> None:
    """Folders without an owner file, of other users, of other names; links and odd files."""
    (tmp_path / "condbench-0").mkdir()
    (tmp_path / "condbench-file").write_text(OWNER)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / OWNER).touch()
    (tmp_path / "condbench-link").symlink_to(tmp_path / "elsewhere")
    for name, make in (("fifo", os.mkfifo), ("folder", os.mkdir)):
        (tmp_path / f"condbench-{name}").mkdir()
        make(tmp_path / f"condbench-{name}" / OWNER)
    (tmp_path / "condbench-owned").mkdir()
    (tmp_path / "condbench-owned" / OWNER).symlink_to(tmp_path / "elsewhere" / OWNER)
    before = sorted(tmp_path.rglob("*"))
    with Scratch(str(tmp_path)):
        pass
    assert sorted(tmp_path.rglob("*")) == before
    (tmp_path / "condbench-mine").mkdir()
    (tmp_path / "condbench-mine" / OWNER).touch()
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    with Scratch(str(tmp_path)):
        pass
    assert (tmp_path / "condbench-mine").exists()


def test_without_locks_nothing_is_removed(tmp_path, monkeypatch) -> None:
    """A drive that cannot lock: the folder has no owner file, and works."""

    def fail(*arguments: object) -> None:
        raise OSError("no locks available")

    monkeypatch.setattr(scratch.fcntl, "flock", fail)
    with Scratch(str(tmp_path)) as folder, Scratch(str(tmp_path)) as other:
        assert folder.exists()
        assert other.exists()
        assert not (folder / OWNER).exists()
    assert list(tmp_path.iterdir()) == []
