"""A trial as its folder describes it: trial.json, typed.

read_trial(folder) -> Trial
"""

from __future__ import annotations

import contextlib
import importlib
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bench.config import Config, as_config
from bench.plugins import construct
from bench.records import environment, layout
from bench.records.files import read_json
from bench.records.record import TRIAL_NAME, Labels


class BadTrial(Exception):
    """A folder without a readable trial.json; the message says what is wrong."""


@dataclass(frozen=True)
class Trial:
    """trial.json, typed. Plugins are loaded later, so that a broken one becomes a record."""

    folder: Path
    key: str
    labels: Labels
    config: Config
    entry_points: dict[str, str]  # kind -> "module:Class", as resolved by the plan
    checkpoint: Path  # of the dense model
    start: Path  # of the one that methods start from: another one where train.flops is set
    raw: dict[str, Any]  # the file as it is, which the record quotes

    @property
    def is_dense(self) -> bool:
        return self.labels.method == "dense"

    @property
    def device(self) -> torch.device:
        if self.config.measure.meta:
            return torch.device("meta")
        # The launcher exposes only the trial's GPUs, and a process group selects one of them, so
        # that "cuda" without an index is always this process's.
        return torch.device("cpu" if self.config.gpu.kind == "cpu" else "cuda")

    @property
    def num_threads(self) -> int:
        """Threads that the whole trial computes with."""
        # Physical cores: hyperthreads share the units that matrix products need.
        return self.config.gpu.threads or environment.num_physical_cores()

    def inference(self) -> AbstractContextManager[Any]:
        """A context for inference in the precision of the training, as the tables name it."""
        if self.config.gpu.precision == "32":
            return contextlib.nullcontext()
        dtype = {"bf16": torch.bfloat16, "16": torch.float16}[self.config.gpu.precision]
        return torch.autocast(self.device.type, dtype)

    def plugin(self, kind: str) -> Any:
        """The method, backbone or task with its settings."""
        # By the path that the plan resolved, so that a rerun by hand loads the same class.
        module, _, name = self.entry_points[kind].partition(":")
        cls = getattr(importlib.import_module(module), name)
        return construct(cls, getattr(self.config, kind))


def read_trial(folder: Path) -> Trial:
    """Read `folder`/trial.json. Raises BadTrial naming the file and what is wrong with it."""
    path = folder / TRIAL_NAME
    try:
        raw = read_json(path)
        config, key = as_config(raw["config"]), raw["key"]
        labels = Labels.model_validate(raw["labels"])
        root, dense = _results_root(folder, config, labels, key), raw["dense"]
        return Trial(
            folder=folder,
            key=key,
            labels=labels,
            config=config,
            entry_points=raw["entry_points"],
            checkpoint=root / dense["checkpoint"],
            # Of a file without one there is no budget: one dense model is both.
            start=root / dense.get("start", dense["checkpoint"]),
            raw=raw,
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        # ValueError covers broken JSON and what pydantic rejects.
        raise BadTrial(f"{path}: {type(error).__name__}: {error}") from error


def _results_root(folder: Path, config: Config, labels: Labels, key: str) -> Path:
    """The results tree that `folder` lies in, else the one that the config names.

    The config's path may be relative to another working directory than this process has.
    """
    below = layout.trial_folder(Path(), labels, key).parts
    whole = folder.resolve()
    if whole.parts[-len(below) :] == below:
        return whole.parents[len(below) - 1]
    return Path(config.results)
