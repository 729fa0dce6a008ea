"""Our own files, replaced whole: a reader sees the old or the new one, never half of one.

    replace_file(path, content)
    replace_files(folder, {"table.md": b"...", "robustness.png": None})    None removes a file

A temporary file is named `.NAME.HOST-PROCESS-RANDOM`. What a killed process left is removed when
the same file is written again.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

STALE_S = 86_400.0  # age at which a file of another machine counts as abandoned
HOST = re.sub(r"\W+", "", socket.gethostname())[:32] or "host"


def replace_file(path: Path, content: bytes) -> Path:
    """Write one file; returns its path. Raises OSError, which names the path."""
    return replace_files(path.parent, {path.name: content})[0]


def replace_files(folder: Path, contents: Mapping[str, bytes | None]) -> list[Path]:
    """Write files into `folder`; where the disk is full or a name is taken, none is replaced.

    Their modes are those that the umask gives. Returns the paths of the files written. Raises
    OSError, which names the path.
    """
    staged: dict[Path, Path] = {}  # path -> its new content on disk
    try:
        for name, content in contents.items():
            _remove_stale(folder / name)
            if content is not None:
                staged[folder / name] = _stage(folder / name, content)
        paths = list(staged)
        for path in paths:
            with _named(path):
                staged[path].replace(path)
            del staged[path]
    finally:
        for temporary in staged.values():
            temporary.unlink(missing_ok=True)
    for name in (name for name, content in contents.items() if content is None):
        (folder / name).unlink(missing_ok=True)
    return paths


def _stage(path: Path, content: bytes) -> Path:
    """`content` in a temporary file beside `path`, flushed to the disk."""
    if path.is_dir():  # found only by the rename otherwise, when other files are replaced already
        raise IsADirectoryError(21, "Is a directory", str(path))
    temporary = path.with_name(f".{path.name}.{HOST}-{os.getpid()}-{secrets.token_hex(4)}")
    try:
        with _named(path), temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # before the rename: after a crash the name has the content
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def _remove_stale(path: Path) -> None:
    """Remove what killed processes left of `path`."""
    pattern = re.compile(rf"\.{re.escape(path.name)}\.(?:{HOST}-(\d+)-)?\w+")
    with contextlib.suppress(OSError):  # no such folder, or another process was faster
        for each in path.parent.iterdir():
            found = pattern.fullmatch(each.name)
            if found and _is_stale(each, found.group(1)):
                each.unlink(missing_ok=True)


def _is_stale(temporary: Path, process: str | None) -> bool:
    """Whether its writer has ended; processes of another machine cannot be looked up."""
    if process is not None and not Path(f"/proc/{process}").exists():
        return True
    return time.time() - temporary.lstat().st_mtime > STALE_S


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """An OSError of the block names `path`: that of a full disk names nothing."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
