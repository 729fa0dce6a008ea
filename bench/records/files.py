"""Files that anybody may have written: opened and parsed within bounds.

    read_bytes(path)    a regular file up to a size; a FIFO or device is refused, not waited for
    read_json(path)     strict JSON: no NaN, no key twice, no lone surrogate, bounded depth

OSError stands for a file that cannot be opened, ValueError for content that is not as it should be.
"""

from __future__ import annotations

import errno
import json
import os
import re
import stat
import sys
from pathlib import Path
from typing import Any, BinaryIO

MAX_BYTES = 8 * 2**20  # of a text file: our largest records have 0.1 MB
MAX_DEPTH = 64  # of lists and mappings: `records.writable` stops at 50, readers recurse
CONTAINERS = (dict, list)
MAX_NUMBER = sys.float_info.max
LARGE_NUMBER = re.compile(
    r"(?<![\w.\"-])-?\d[\d.]*(?:[eE]\+?0*[1-9]\d\d|\d{300})"
)  # perhaps no float
HALF_A_PAIR = re.compile(r"\\u[dD][89a-fA-F]")  # an escape that may be a lone surrogate


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file, or what a link to one leads to, for reading.

    Raises OSError, which names the path, for anything else: opening a FIFO waits for a writer, and
    /dev/zero has no end.
    """
    # Before opening: that alone may rewind a tape or hang on a device.
    _check_regular(path.stat(), path)
    # O_NONBLOCK: between the two calls the file may have been replaced by a FIFO.
    file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        _check_regular(os.fstat(file), path)
        return os.fdopen(file, "rb")
    except BaseException:
        os.close(file)
        raise


def _check_regular(found: os.stat_result, path: Path) -> None:
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))


def read_bytes(path: Path, max_bytes: int = MAX_BYTES) -> bytes:
    """The content of a regular file. Raises OSError, also for more than `max_bytes`."""
    with open_regular(path) as file:
        # One byte more than allowed: a file may grow while it is read.
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        problem = f"larger than the {max_bytes:,} bytes that are read"
        raise OSError(errno.EFBIG, problem, str(path))
    return content


def read_text(path: Path, max_bytes: int = MAX_BYTES) -> str:
    """The same as text. Raises OSError, and ValueError where it is not UTF-8."""
    return read_bytes(path, max_bytes).decode("utf-8")


def read_json(path: Path, max_bytes: int = MAX_BYTES) -> Any:
    """What `parse_json` makes of a regular file. Raises OSError and ValueError."""
    return parse_json(read_text(path, max_bytes))


def parse_json(text: str) -> Any:
    """Strict JSON. Raises ValueError for a key twice, NaN, what no float holds, and depth."""
    try:
        content = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError(f"nested more than {MAX_DEPTH} deep") from None
    _check_depth([content])
    # Searched first: looking at every number and text would take as long as parsing.
    if LARGE_NUMBER.search(text):
        _check_finite(content)
    if HALF_A_PAIR.search(text):
        json.dumps(content, ensure_ascii=False).encode()  # UnicodeEncodeError is a ValueError
    return content


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"key {twice!r} stands there twice")
    return found


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _check_depth(content: Any) -> None:
    """Raise ValueError for too deep nesting: whoever reads it further recurses."""
    level = [content]
    for _ in range(MAX_DEPTH + 1):
        inner = [each.values() if type(each) is dict else each for each in level]
        level = [each for group in inner for each in group if type(each) in CONTAINERS]
        if not level:
            return
    raise ValueError(f"nested more than {MAX_DEPTH} deep")


def _check_finite(content: Any) -> None:
    """Raise ValueError for a number that no float holds, such as 1e999."""
    if isinstance(content, dict | list):
        for each in content.values() if isinstance(content, dict) else content:
            _check_finite(each)
    elif isinstance(content, int | float) and not -MAX_NUMBER <= content <= MAX_NUMBER:
        raise ValueError("a number is too large")
