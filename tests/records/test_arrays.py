"""Archives of arrays from anywhere: arrays or BadArrays, whatever the bytes, in little memory."""

from __future__ import annotations

import io
import random
import zipfile
from pathlib import Path

import numpy as np
import pytest

from bench.records.arrays import BadArrays, open_arrays
from tests.fakes.odd_files import ODDITIES, at_most, put

ARRAYS = {
    "times": np.linspace(1.0, 2.0, 50),
    "reasons": np.array(["", "HwSlowdown"]),
    "counts": np.arange(3, dtype=np.int64),
    "one": np.array(3.0),
}


def packed(compressed: bool = True) -> bytes:
    """ARRAYS as an .npz file."""
    stream = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(stream, **ARRAYS)
    return stream.getvalue()


def read_all(path: Path) -> dict[str, np.ndarray]:
    """Every array of the file."""
    with open_arrays(path) as arrays:
        return {name: arrays.get(name) for name in arrays.names}


def test_arrays_come_back(tmp_path: Path) -> None:
    """Numbers, texts and a scalar, compressed or not; a name that is not there is None."""
    for compressed in (True, False):
        (tmp_path / "raw.npz").write_bytes(packed(compressed))
        found = read_all(tmp_path / "raw.npz")
        assert {name: array.tolist() for name, array in found.items()} == {
            name: array.tolist() for name, array in ARRAYS.items()
        }
    with open_arrays(tmp_path / "raw.npz") as arrays:
        assert arrays.get("nothing") is None


@pytest.mark.parametrize("compressed", [True, False])
def test_damaged_bytes_are_bad_arrays(tmp_path: Path, compressed: bool) -> None:
    """300 files with bytes changed, cut out or doubled, each read or refused by name."""
    whole, chance = packed(compressed), random.Random(19)
    path = tmp_path / "raw.npz"
    refused = 0
    for _ in range(300):
        content = bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            place = chance.randrange(len(content))
            content[place : place + chance.randint(0, 3)] = chance.randbytes(chance.randint(0, 3))
        path.write_bytes(content)
        try:
            read_all(path)
        except BadArrays:
            refused += 1
    assert refused > 100


def member(header: str) -> bytes:
    """An archive of one array with this header and 16 bytes of data."""
    text = header.encode().ljust(118 - 1) + b"\n"
    array = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + b"\0" * 16
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("a.npy", array)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ("{'descr': '<f8', 'fortran_order': False, 'shape': (1099511627776,)}", "needs"),
        ("{'descr': '<f8', 'fortran_order': False, 'shape': (4294967296, 4294967296)}", "needs"),
        ("{'descr': '<f8', 'fortran_order': False, 'shape': (-1, -2)}", "needs"),
        ("{'descr': '<f8', 'fortran_order': False, 'shape': (1,)}", "needs 8 bytes, 16 are there"),
        ("{'descr': '|O', 'fortran_order': False, 'shape': (2,)}", "object"),
        ("{'descr': '<U1000000000', 'fortran_order': False, 'shape': (2,)}", "a: "),
        ("{'descr': 7, 'fortran_order': False, 'shape': (2,)}", "a: "),
        ("(" * 90, "a: "),
    ],
)
def test_a_header_takes_no_memory(tmp_path: Path, header: str, words: str) -> None:
    """A shape of 8 TB over 16 bytes of data is refused before anything is allocated."""
    (tmp_path / "raw.npz").write_bytes(member(header))
    with pytest.raises(BadArrays, match=words):
        read_all(tmp_path / "raw.npz")


def test_a_bomb_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A megabyte of zeros packs into a kilobyte: beyond the limit, over all arrays together."""
    monkeypatch.setattr("bench.records.arrays.MAX_BYTES", 1_500_000)
    np.savez_compressed(tmp_path / "raw.npz", a=np.zeros(2**17), b=np.zeros(2**17))
    with open_arrays(tmp_path / "raw.npz") as arrays:
        assert arrays.get("a") is not None
        with pytest.raises(BadArrays, match="more than the 1,500,000 bytes"):
            arrays.get("b")


@pytest.mark.parametrize("oddity", ODDITIES)
def test_nothing_in_the_place_of_a_file_is_waited_for(tmp_path: Path, oddity: str) -> None:
    """A FIFO, a device, a folder, a terabyte of zeros: an error at once."""
    put(oddity, tmp_path / "raw.npz")
    with at_most(30), pytest.raises((OSError, BadArrays)):
        read_all(tmp_path / "raw.npz")
