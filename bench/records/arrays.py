"""Arrays from a file that anybody may have written: within bounds, and without pickle.

    with open_arrays(path) as arrays:
        arrays.get("quality")       one array, or None where the file has none of that name

An .npz file is a zip archive. Its index states how large each member is when unpacked, and each
member how large its array is: both are compared before any memory is taken.
"""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from bench.records.files import open_regular

if TYPE_CHECKING:
    import numpy as np

MAX_BYTES = 256 * 2**20  # unpacked, all arrays of a file: an hour of rounds has 0.1 MB
PLAIN_KINDS = "biufSU"  # truth values, numbers and texts: no objects, no records of fields


class BadArrays(ValueError):
    """A file that is no archive of plain arrays; the message says what is wrong."""


class Arrays:
    """The arrays of one open archive, read one by one."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        self._left = MAX_BYTES
        self.names = [name.removesuffix(".npy") for name in archive.namelist()]

    def get(self, name: str) -> np.ndarray | None:
        """The array of this name; None where there is none. Raises BadArrays."""
        return self._read(name) if name in self.names else None

    def _read(self, name: str) -> np.ndarray:
        # What zipfile, zlib and numpy raise for damaged bytes has no end: MemoryError, RuntimeError
        # for a password, AttributeError, NotImplementedError for a method of compression.
        try:
            member = self._archive.getinfo(f"{name}.npy")
            self._left -= member.file_size
            if self._left < 0:
                raise BadArrays(f"more than the {MAX_BYTES:,} bytes that are read")
            return _array(self._archive.read(member))
        except Exception as error:
            raise BadArrays(f"{name}: {_words(error)}") from error


@contextmanager
def open_arrays(path: Path) -> Iterator[Arrays]:
    """The arrays in the file `path`. Raises OSError, and BadArrays for what is no archive."""
    with open_regular(path) as file:
        try:
            archive = zipfile.ZipFile(file)
        except Exception as error:  # as above
            raise BadArrays(_words(error)) from error
        with archive:
            yield Arrays(archive)


def _array(content: bytes) -> np.ndarray:
    """One .npy file. Raises ValueError and whatever numpy raises."""
    from numpy.lib import format as npy

    file = io.BytesIO(content)
    version = npy.read_magic(file)
    read_header = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    shape, _, dtype = read_header[version](file)
    if dtype.kind not in PLAIN_KINDS:
        raise ValueError(f"an array of {dtype}")
    # numpy would take the memory first and read afterwards.
    needed, present = math.prod(shape) * dtype.itemsize, len(content) - file.tell()
    if min(shape, default=0) < 0 or needed != present:
        raise ValueError(f"shape {shape} of {dtype} needs {needed:,} bytes, {present:,} are there")
    file.seek(0)
    array: np.ndarray = npy.read_array(file, allow_pickle=False)
    return array


def _words(error: Exception) -> str:
    text = " ".join(str(error).split())[:200]
    return text if isinstance(error, ValueError) and text else f"{type(error).__name__} {text}"
