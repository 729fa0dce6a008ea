"""The hash of data that are too large to hold: names, sizes and checksums, each file read once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bench.tasks.parts import manifest
from bench.tasks.parts.manifest import manifest_hash

NAMES = ["a/1.bin", "a/2.bin", "b.bin"]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Three small files."""
    for number, name in enumerate(NAMES):
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes([number]) * 100)
    return tmp_path / "data"


def test_neither_order_nor_place_matters(data: Path, tmp_path: Path) -> None:
    """The same files elsewhere, listed backwards and twice, have the same hash."""
    before = manifest_hash(data, NAMES)
    moved = data.rename(tmp_path / "moved")
    assert manifest_hash(moved, [*reversed(NAMES), *NAMES]) == before


@pytest.mark.parametrize("change", ["content", "name", "fewer"])
def test_every_change_matters(data: Path, change: str) -> None:
    """One byte in the middle, another name, or a file less."""
    before, names = manifest_hash(data, NAMES), list(NAMES)
    if change == "content":
        content = bytearray((data / "b.bin").read_bytes())
        content[50] ^= 1
        (data / "b.bin").write_bytes(bytes(content))
    elif change == "name":
        (data / "b.bin").rename(data / "c.bin")
        names[2] = "c.bin"
    else:
        names.pop()
    assert manifest_hash(data, names) != before


def test_a_file_is_read_once(data: Path, tmp_path: Path, monkeypatch) -> None:
    """Unchanged files are not read again; one whose time has moved is."""
    read: list[str] = []
    checksum = manifest._checksum
    monkeypatch.setattr(
        manifest, "_checksum", lambda path: (read.append(path.name), checksum(path))[1]
    )
    before = manifest_hash(data, NAMES, known=tmp_path / "known")
    assert read == ["1.bin", "2.bin", "b.bin"]
    assert manifest_hash(data, NAMES, known=tmp_path / "known") == before
    assert len(read) == 3
    os.utime(data / "b.bin", ns=(0, 0))
    assert manifest_hash(data, NAMES, known=tmp_path / "known") == before
    assert read[3:] == ["b.bin"]


@pytest.mark.parametrize("damage", ["{", "[]", '{"b.bin": 3}'])
def test_a_damaged_store_is_made_again(data: Path, tmp_path: Path, damage: str) -> None:
    """What was kept is a convenience: damaged, it is not believed."""
    before = manifest_hash(data, NAMES, known=tmp_path / "known")
    (store,) = (tmp_path / "known").iterdir()
    store.write_text(damage)
    assert manifest_hash(data, NAMES, known=tmp_path / "known") == before


def test_names_stay_inside(data: Path, tmp_path: Path) -> None:
    """A name that leads out is refused, a missing file named."""
    (tmp_path / "secret").write_text("x")
    with pytest.raises(ValueError, match="leads out of"):
        manifest_hash(data, ["../secret"])
    with pytest.raises(FileNotFoundError, match="missing"):
        manifest_hash(data, ["missing"])
