"""Whether two trials may be compared: all that must be equal, and what differs if it is not.

Code may differ: that is the question. Hardware, driver, power limit, versions, data and
configuration may not. How many rounds were timed is no difference: intervals carry it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from bench.plan.identity import KEY_BLOCKS
from bench.record import Record

IGNORED = {"measure.rounds", "gpu.device"}
GPU_FACTS = ("name", "driver", "power_limit_w", "memory_bytes")


def identity_differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two trials' identities beside code: "version of torch 2.12 -> 2.13"."""
    found = []
    for key in ("hardware", "data"):
        if before.get(key) != now.get(key):
            names = {"hardware": "hardware", "data": "data hash"}
            found.append(_change(names[key], before.get(key), now.get(key)))
    found += _flat_changes("version of ", before.get("versions", {}), now.get("versions", {}))
    old, new = before.get("config", {}), now.get("config", {})
    for block in KEY_BLOCKS:
        pair = ({block: side.get(block)} for side in (old, new))
        found += _flat_changes("", *pair)
    return found


def record_differences(before: Record, now: Record) -> list[str]:
    """What keeps two records of one cell from being compared; [] if nothing does.

    A trial that died left no word about its machine's state: what was planned must be equal then.
    """
    found = []
    if before.labels.hardware != now.labels.hardware:
        found.append(_change("hardware", before.labels.hardware, now.labels.hardware))
    died = now.status == "failed" and not now.environment
    if before.labels.device != now.labels.device and not died:
        found.append(_change("device", before.labels.device, now.labels.device))
    identities = [record.provenance.get("identity", {}) for record in (before, now)]
    found += [each for each in identity_differences(*identities) if each not in found]
    return found if died else found + environment_differences(before.environment, now.environment)


def environment_differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Differences of the machine's state: threads, and each GPU's driver and power limit."""
    found = []
    if before.get("num_threads") != now.get("num_threads"):
        found.append(_change("threads", before.get("num_threads"), now.get("num_threads")))
    gpus = [[_facts(gpu) for gpu in side.get("gpus") or []] for side in (before, now)]
    if len(gpus[0]) != len(gpus[1]):
        return [*found, _change("number of GPUs", len(gpus[0]), len(gpus[1]))]
    for number, (old, new) in enumerate(zip(*gpus, strict=True)):
        found += _flat_changes(f"GPU {number} ", old, new)
    return found


def _facts(gpu: Mapping[str, Any]) -> dict[str, Any]:
    return {fact: gpu.get(fact) for fact in GPU_FACTS}


def _flat_changes(prefix: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    old, new = dict(_flat(before)), dict(_flat(now))
    paths = sorted((old.keys() | new.keys()) - IGNORED)
    return [
        _change(prefix + path, old.get(path), new.get(path))
        for path in paths
        if old.get(path) != new.get(path)
    ]


def _flat(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in content.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _change(what: str, before: Any, now: Any) -> str:
    return f"{what} {_shown(before)} -> {_shown(now)}"


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
