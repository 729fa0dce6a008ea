"""The dense model of a (task, backbone, seed, recipe): trained once, shared by content key.

    checkpoints/<key>.pt     the weights (read with weights_only=True)
    checkpoints/<key>.json   what training them cost

Whoever needs it first trains it under a lock; everybody else waits and loads.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bench.record import Metric, write_json


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
    with _locked(path.with_suffix(".lock")):
        model = build()
        if not _complete(path):
            metrics = train(model)
            _store(path, model, metrics)
            return DenseStart(model, metrics)
    weights = torch.load(path, weights_only=True, map_location="cpu")
    model.load_state_dict(weights)
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
