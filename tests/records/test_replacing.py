"""Our own files are replaced whole, with the umask's modes, and nothing stays behind."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.records.record import write_json
from bench.records.replacing import HOST, replace_file, replace_files


@pytest.fixture
def umask() -> Iterator[None]:
    """The process's umask is the same afterwards."""
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_modes_follow_the_umask(tmp_path: Path, umask, mask: int, mode: int) -> None:
    """Also where a file is replaced: a private tree stays private, a group's the group's."""
    for _ in range(2):
        os.umask(mask)
        path = write_json(tmp_path / "record.json", {})
        assert path.stat().st_mode & 0o777 == mode


@pytest.fixture
def small_disk() -> Iterator[None]:
    """No file may become larger than 1,000 bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_leaves_what_was_there(tmp_path: Path, small_disk) -> None:
    """Two files, of which the second does not fit: both stay as they were, and it is named."""
    replace_files(tmp_path, {"a": b"old a", "b": b"old b"})
    with pytest.raises(OSError, match="large") as caught:
        replace_files(tmp_path, {"a": b"new a", "b": b"x" * 2000})
    assert (caught.value.errno, caught.value.filename) == (errno.EFBIG, str(tmp_path / "b"))
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "a": "old a",
        "b": "old b",
    }


def test_a_folder_in_the_way_leaves_what_was_there(tmp_path: Path) -> None:
    """Found before the first rename."""
    (tmp_path / "b").mkdir()
    (tmp_path / "a").write_text("old")
    with pytest.raises(IsADirectoryError) as caught:
        replace_files(tmp_path, {"a": b"new", "b": b"new"})
    assert caught.value.filename == str(tmp_path / "b")
    assert (tmp_path / "a").read_text() == "old"


def test_a_fifo_is_replaced_and_not_written_to(tmp_path: Path) -> None:
    """Nobody reads it: writing would wait for ever. A link is replaced, not followed."""
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "target").write_text("kept")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    for name in ("fifo", "link"):
        assert replace_file(tmp_path / name, b"new").read_bytes() == b"new"
    assert (tmp_path / "target").read_text() == "kept"


def test_none_removes_a_file(tmp_path: Path) -> None:
    """A figure that there is nothing to draw for any more."""
    (tmp_path / "old.png").write_text("")
    assert replace_files(tmp_path, {"a": b"", "old.png": None, "other": None}) == [tmp_path / "a"]
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_what_killed_processes_left_is_removed(tmp_path: Path) -> None:
    """By the next writer of the same file: of a dead process at once, of another machine after a
    day, of a living process never."""
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    names = {
        f".a.json.{HOST}-{dead.pid}-0123abcd": False,
        f".a.json.{HOST}-{os.getppid()}-0123abcd": True,
        ".a.json.elsewhere-1-0123abcd": True,
        ".a.json.fresh123": True,
        ".a.json.old12345": False,  # as earlier versions called them
        f".b.json.{HOST}-{dead.pid}-0123abcd": True,
        ".a.json.tar.gz": True,
    }
    for name in names:
        (tmp_path / name).write_text("")
    day_ago = time.time() - 90_000
    os.utime(tmp_path / ".a.json.old12345", (day_ago, day_ago))
    write_json(tmp_path / "a.json", {})
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"a.json", *(name for name, stays in names.items() if stays)}
