"""The dense model of a (task, backbone, seed, recipe): trained once, shared by content key.

    checkpoints/<key>.pt     the weights (read with weights_only=True)
    checkpoints/<key>.json   what training them cost

Whoever needs it first trains it under a lock; everybody else waits and loads. What is damaged is
trained again. Of the processes of one trial the first holds the lock and decides for all, so that
they train together or not at all.
"""

from __future__ import annotations

import fcntl
import json
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
from bench.records.record import Metric, write_json

# What reading a file that is cut off or something else may raise.
DAMAGED = (
    *(RuntimeError, ValueError, KeyError, TypeError, AttributeError, EOFError),
    pickle.UnpicklingError,
)
REASON_CHARACTERS = 200


@dataclass
class DenseStart:
    """A trained dense model and what it cost."""

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
    first = ranks.number() == 0
    with _locked(path.with_suffix(".lock")) if first else nullcontext():
        found = _usable(path, build) if first else None
        if not ranks.everyones(found is not None)[0]:
            model = build()
            metrics = train(model)
            if first:
                _store(path, model, metrics)
            return DenseStart(model, metrics)
    return found or _load(path, build())


def _usable(path: Path, build: Callable[[], nn.Module]) -> DenseStart | None:
    """What is stored; None where nothing is, or, with a line in the log, where it is damaged."""
    if not _complete(path):
        return None
    try:
        return _load(path, build())
    except DAMAGED as error:
        why = f"{type(error).__name__}: {' '.join(str(error).split())[:REASON_CHARACTERS]}"
        told = f"warning: {path} cannot be used ({why}): the dense model is trained again"
        print(told, file=sys.stderr)
        return None


def _load(path: Path, model: nn.Module) -> DenseStart:
    model.load_state_dict(torch.load(path, weights_only=True, map_location="cpu"))
    return DenseStart(model, _metrics(path))


def _complete(path: Path) -> bool:
    # The weights are renamed into place last, so that they vouch for the costs beside them.
    return path.exists() and path.with_suffix(".json").exists()


def _store(path: Path, model: nn.Module, metrics: dict[str, Metric]) -> None:
    content: dict[str, Any] = {name: metric.model_dump() for name, metric in metrics.items()}
    write_json(path.with_suffix(".json"), content)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    torch.save({name: value.cpu() for name, value in model.state_dict().items()}, temporary)
    temporary.replace(path)


def _metrics(path: Path) -> dict[str, Metric]:
    content = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    return {name: Metric.model_validate(metric) for name, metric in content.items()}


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
