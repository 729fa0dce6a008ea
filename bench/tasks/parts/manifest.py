"""A hash for data that are too large to hold: names, sizes and checksums of files.

    manifest_hash(root, ["train/0001.png", ...], known=cache_folder)

A file is read once. Its checksum is kept beside its size and modification time, and used again as
long as both are unchanged, so that the hash of a hundred gigabytes costs a listing.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

CHUNK_BYTES = 1 << 20


def manifest_hash(root: Path, names: Iterable[str], *, known: Path | None = None) -> str:
    """SHA-256 (hexadecimal) over the name, size and checksum of every file in `names`.

    `names` are paths relative to `root`; their order does not matter, nor where `root` lies.
    `known`: a folder that keeps checksums between calls; None keeps none. Raises FileNotFoundError
    for a file that is not there, ValueError for a name that leads out of `root`.
    """
    store = None if known is None else known / f"{_digest(str(root.resolve()).encode())[:32]}.json"
    before, now = _read(store), dict[str, list[object]]()
    lines = []
    for name in sorted(set(names)):
        path = root / name
        if not path.resolve().is_relative_to(root.resolve()):
            raise ValueError(f"{name!r} leads out of {root}")
        state = path.stat()
        kept = before.get(name, [None, None, ""])
        same = kept[:2] == [state.st_size, state.st_mtime_ns]
        checksum = str(kept[2]) if same else _checksum(path)
        now[name] = [state.st_size, state.st_mtime_ns, checksum]
        lines.append(json.dumps([name, state.st_size, checksum]))
    if store is not None and now != before:
        _write(store, now)
    return _digest("\n".join(lines).encode())


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _checksum(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _read(store: Path | None) -> dict[str, list[object]]:
    """What was kept; nothing where there is none, or where it is damaged."""
    try:
        found = json.loads(store.read_text(encoding="utf-8")) if store is not None else {}
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {k: v for k, v in found.items() if isinstance(v, list) and len(v) == 3}


def _write(store: Path, content: dict[str, list[object]]) -> None:
    """Replace the store atomically: two processes may hash the same data at once."""
    store.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=store.parent, prefix=f".{store.name}.")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        json.dump(content, file)
    Path(temporary).replace(store)
