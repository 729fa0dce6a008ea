"""Whether two trials may be compared: what must be equal, and what differs if it is not.

Code may differ: its effect is what is measured. Processor, memory, governor, threads, GPU, driver,
power limit, versions, data and configuration may not. A record that lacks the processor's family,
caches and hypervisor is of an unknown one. The number of rounds may differ, because intervals carry
it. Another kernel is a note.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from bench.config import KEY_BLOCKS
from bench.records.catalogue import QUALITY
from bench.records.record import Record

IGNORED = {"measure.rounds", "measure.processes", "gpu.device"}  # how long, on which GPU
GPU_FACTS = ("name", "driver", "power_limit_w", "memory_bytes")
MACHINE_FACTS = {
    "cpu_model": "processor",
    "num_cores": "number of cores",
    "governor": "CPU governor",
    "num_threads": "threads",
}
# Packages that compose, read or draw, and cannot change a number that is compared. A package that
# is not listed counts. Our own version is ignored because its code is what is compared.
UNINVOLVED = ("condbench", "hydra-core", "pandas", "fvcore", "wandb")
GIB = 2**30
SAME_BYTES = GIB // 2  # memory differs by some kB from boot to boot


def identity_differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two trials' identities beside code: "version of torch 2.12 -> 2.13"."""
    found = []
    for key, name in (("hardware", "hardware"), ("data", "data hash")):
        if before.get(key) != now.get(key):
            found.append(_change(name, before.get(key), now.get(key)))
    found += _flat_changes("version of ", before.get("versions", {}), now.get("versions", {}))
    old, new = before.get("config", {}), now.get("config", {})
    # Only the blocks that enter a trial's key: names and folders change no number.
    for block in KEY_BLOCKS:
        pair = ({block: side.get(block)} for side in (old, new))
        found += _flat_changes("", *pair)
    return found


def record_differences(before: Record, now: Record) -> list[str]:
    """What keeps two records of one cell from being compared; [] if nothing does.

    The record of a process that died has no environment: only what was planned is compared then.
    """
    found = []
    if before.labels.hardware != now.labels.hardware:
        found.append(_change("hardware", before.labels.hardware, now.labels.hardware))
    # Such a record is written by the launcher, which has not seen the device either.
    died = now.status == "failed" and not now.environment
    if before.labels.device != now.labels.device and not died:
        found.append(_change("device", before.labels.device, now.labels.device))
    identities = [record.provenance.get("identity", {}) for record in (before, now)]
    found += [each for each in identity_differences(*identities) if each not in found]
    if not died:
        states = environment_differences(before.environment, now.environment)
        found += [each for each in states if each not in found]
    if before.status == now.status == "ok":
        found += _quality_differences(before, now)
    return found


def _quality_differences(before: Record, now: Record) -> list[str]:
    """Another unit or direction of quality: the numbers have another meaning."""
    found = []
    # Two versions of a task may count in per cent and in nats under the same name.
    units = [record.metrics.get(QUALITY.key) for record in (before, now)]
    if units[0] and units[1] and units[0].unit != units[1].unit:
        found.append(_change("unit of quality", units[0].unit, units[1].unit))
    if before.quality and now.quality and before.quality.direction != now.quality.direction:
        change = _change("direction of quality", before.quality.direction, now.quality.direction)
        found.append(change)
    return found


def environment_differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Differences of the machine's state: what computes, with which libraries, how throttled."""
    found = [
        _change(name, before.get(fact), now.get(fact))
        for fact, name in MACHINE_FACTS.items()
        if before.get(fact) != now.get(fact)
    ]
    found += _flat_changes("processor's ", before.get("cpu") or {}, now.get("cpu") or {})
    # Absent in records of one device.
    devices = [side.get("world_size", 1) for side in (before, now)]
    if devices[0] != devices[1]:
        found.append(_change("devices that trained together", *devices))
    sizes = [side.get("memory_bytes") for side in (before, now)]
    if not _same_memory(*sizes):
        found.append(_change("memory", *map(_gib, sizes)))
    for prefix, block in (("", "thread_settings"), ("version of ", "versions")):
        found += _flat_changes(prefix, *(_involved(side.get(block)) for side in (before, now)))
    return found + _gpu_differences(before, now)


def kernel_change(before: Record, now: Record) -> str | None:
    """Another operating system kernel, where both are known: it may change times."""
    old, new = (record.environment.get("kernel") for record in (before, now))
    return _change("kernel", old, new) if old and new and old != new else None


def _involved(block: Mapping[str, Any] | None) -> dict[str, Any]:
    return {name: value for name, value in (block or {}).items() if name not in UNINVOLVED}


def _same_memory(before: int | None, now: int | None) -> bool:
    if before is None or now is None:
        return before == now
    return abs(before - now) <= SAME_BYTES


def _gib(num_bytes: int | None) -> str:
    return "unknown" if num_bytes is None else f"{num_bytes / GIB:.1f} GiB"


def _gpu_differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    found: list[str] = []
    gpus = [[_gpu_facts(gpu) for gpu in side.get("gpus") or []] for side in (before, now)]
    if len(gpus[0]) != len(gpus[1]):
        return [_change("number of GPUs", len(gpus[0]), len(gpus[1]))]
    for number, (old, new) in enumerate(zip(*gpus, strict=True)):
        found += _flat_changes(f"GPU {number} ", old, new)
    return found


def _gpu_facts(gpu: Mapping[str, Any]) -> dict[str, Any]:
    # Without the UUID: another board of the same kind in the same machine is comparable.
    return {fact: gpu.get(fact) for fact in GPU_FACTS}


def _flat_changes(prefix: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    old, new = dict(_flatten(before)), dict(_flatten(now))
    # A key that only one side has differs too: the other side is shown as null.
    paths = sorted((old.keys() | new.keys()) - IGNORED)
    return [
        _change(prefix + path, old.get(path), new.get(path))
        for path in paths
        if old.get(path) != new.get(path)
    ]


def _flatten(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in content.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _change(what: str, before: Any, now: Any) -> str:
    return f"{what} {_as_text(before)} -> {_as_text(now)}"


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
