"""Where a trial lives in the results tree.

    <results>/<name>/<hardware>/<task>/<backbone>/<method>[,key=value...]/seed<k>-<key8>/
    <results>/checkpoints/<content key>.pt

Every part of a path is made of letters, digits and `._-+=,`, never begins with a dot, and stays
inside the results folder whatever a name contains.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bench.config import GpuConfig, TrainConfig
from bench.records.record import Labels

LONGEST_PART = 120  # characters: most file systems stop at 255 bytes
CHECKPOINTS = "checkpoints"  # below the results folder
# Other folders there, or below an experiment: not allowed as the name of one.
TAKEN = (CHECKPOINTS, "published", "baseline", "report", "nights")


def part(text: str) -> str:
    """`text` as one part of a path; a hash stands for what did not fit."""
    # No dot or hyphen at the ends: "..", hidden files, and names that a shell takes for options.
    clean = re.sub(r"[^A-Za-z0-9._=,+-]+", "-", text).strip("-.") or "unnamed"
    if len(clean) <= LONGEST_PART:
        return clean
    return f"{clean[:LONGEST_PART]}+{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def check_name(name: str) -> None:
    """Raises ValueError unless `name` can be an experiment's folder as it is."""
    if not name or part(name) != name or name in TAKEN:
        raise ValueError(
            f"name={name!r}: use letters, digits and ._-+=, only, no dot or hyphen at either end, "
            f"and none of {', '.join(TAKEN)}"
        )


def trial_folder(results: Path, labels: Labels, key: str) -> Path:
    """The trial's folder below `results`."""
    method = f"{labels.method},{labels.variant}" if labels.variant else labels.method
    cell = (labels.experiment, labels.hardware, labels.task, labels.backbone, method)
    return results.joinpath(*map(part, cell), f"seed{labels.seed}-{key[:8]}")


def checkpoint_path(content_key: str) -> str:
    """The dense model's checkpoint, relative to the results folder."""
    return f"{CHECKPOINTS}/{content_key[:32]}.pt"


def variant(config: Mapping[str, Any], defaults: Mapping[str, Mapping[str, Any]]) -> str:
    """What differs from the defaults: "num_experts=16,backbone.depth=8"; "" where nothing does.

    `defaults` holds those of method, backbone and task by kind. How a trial is measured is no part
    of it: the method stays the same.
    """
    # These two have no plugin: their defaults are those of the configuration.
    blocks = {**defaults, "train": vars(TrainConfig()), "gpu": vars(GpuConfig())}
    found = []
    for block in ("method", "backbone", "task", "train", "gpu"):
        for name, value in _differences(config[block], blocks[block]):
            if (block, name, value) != ("gpu", "kind", "one"):  # it is in the hardware's name
                found.append(f"{'' if block == 'method' else block + '.'}{name}={_shown(value)}")
    return ",".join(found)


def _differences(
    config: Mapping[str, Any], defaults: Mapping[str, Any]
) -> Iterator[tuple[str, Any]]:
    for name, value in config.items():
        default = defaults.get(name)
        if isinstance(value, dict) and isinstance(default, dict):
            yield from ((f"{name}.{inner}", v) for inner, v in _differences(value, default))
        elif value != default:
            yield name, value


def _shown(value: Any) -> str:
    # JSON for the rest: a list or null reads the same as on the command line.
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
