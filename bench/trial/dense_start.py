"""The dense model of a (task, backbone, seed, recipe): trained once, shared by content key.

    checkpoints/<key>.pt     the weights (read with weights_only=True)
    checkpoints/<key>.json   what training them cost

The first trial that needs it trains it under a lock; others wait and load it. A damaged file is
trained again. Of the ranks of one trial, rank 0 holds the lock and decides for all, so that they
train together or not at all.
"""

from __future__ import annotations

import fcntl
import os
import pickle
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bench import ranks
from bench.records.files import read_json
from bench.records.record import Metric, write_json

# What reading a truncated or foreign file may raise.
DAMAGED = (
    *(RuntimeError, ValueError, KeyError, TypeError, AttributeError, EOFError),
    pickle.UnpicklingError,
)
REASON_CHARACTERS = 200  # load_state_dict lists every key of a foreign checkpoint


@dataclass
class DenseStart:
    """A trained dense model and what training it cost."""

    model: nn.Module
    metrics: dict[str, Metric]  # the train/... metrics of the run that made it


def dense_start(
    path: Path, build: Callable[[], nn.Module], train: Callable[[nn.Module], dict[str, Metric]]
) -> DenseStart:
    """Load the dense model from `path`, or build and train it and store it there.

    `build()` makes the untrained model; `train(model)` trains it in place and returns its metrics.
    Safe for many processes: one trains, the others wait.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    first = ranks.rank() == 0
    # Held during training, so that two trials that need the same model do not both train it.
    with _lock(path.with_suffix(".lock")) if first else nullcontext():
        found = _load_usable(path, build) if first else None
        # All ranks act on what rank 0 found: training is collective, one rank alone would hang.
        if not ranks.all_gather(found is not None)[0]:
            model = build()
            metrics = train(model)
            if first:
                _store(path, model, metrics)
            return DenseStart(model, metrics)
    return found or _load(path, build())  # other ranks than 0 have not loaded it yet


def _load_usable(path: Path, build: Callable[[], nn.Module]) -> DenseStart | None:
    """What is stored; None where nothing is, or, with a line in the log, where it is damaged."""
    if not _is_complete(path):
        return None
    try:
        return _load(path, build())
    except DAMAGED as error:
        why = f"{type(error).__name__}: {' '.join(str(error).split())[:REASON_CHARACTERS]}"
        warning = f"warning: {path} cannot be used ({why}): the dense model is trained again"
        print(warning, file=sys.stderr)
        return None


def _load(path: Path, model: nn.Module) -> DenseStart:
    # weights_only: results may come from elsewhere, and a pickle runs code. On the CPU first: the
    # device that stored them may not exist here.
    model.load_state_dict(torch.load(path, weights_only=True, map_location="cpu"))
    return DenseStart(model, _read_metrics(path))


def _is_complete(path: Path) -> bool:
    # The weights are renamed into place last: where they exist, the costs beside them are whole.
    return path.is_file() and path.with_suffix(".json").is_file()


def _store(path: Path, model: nn.Module, metrics: dict[str, Metric]) -> None:
    content: dict[str, Any] = {name: metric.model_dump() for name, metric in metrics.items()}
    write_json(path.with_suffix(".json"), content)
    # Renamed when whole: a killed process leaves a .tmp file, never half a checkpoint. Whoever has
    # the lock is the only one that writes: what lies there was left.
    for left in path.parent.glob(f"{path.stem}.*.tmp"):
        left.unlink(missing_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    torch.save({name: value.cpu() for name, value in model.state_dict().items()}, temporary)
    temporary.replace(path)


def _read_metrics(path: Path) -> dict[str, Metric]:
    content = read_json(path.with_suffix(".json"))
    return {name: Metric.model_validate(metric) for name, metric in content.items()}


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """An exclusive lock on `path`; the kernel releases it when the process ends, however."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
