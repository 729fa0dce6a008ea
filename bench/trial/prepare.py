"""From a trial's folder to its trained model: read trial.json, build, train, calibrate.

    prepare(read_trial(folder), tell)      a Subject, ready to be measured, and what training cost

Under torchrun all processes train together; only the first calibrates, since it alone goes on.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import random
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from bench import ranks
from bench.config import NUM_SEEDS, Config, typed
from bench.measure import Subject
from bench.measure.energy.training import TrainingEnergy
from bench.measure.generation import refuse_unsupported
from bench.measure.training_probe import TrainingProbe
from bench.meters.conditions import pinned_threads
from bench.plugins import construct
from bench.plugins.hooks import DEFAULT_HOOKS, Hooks, ResolvedMethod, resolve
from bench.records import environment, layout
from bench.records.record import TRIAL_NAME, Labels, Metric, missing
from bench.trial.dense_start import DenseStart, dense_start
from bench.trial.train import fit, resolve_recipe
from bench.types import Backbone, Task

OnPhase = Callable[[str, float], None]
CALIBRATION_BATCH = 64


class BadTrial(Exception):
    """A folder without a readable trial.json; the message says what is wrong."""


@dataclass(frozen=True)
class Trial:
    """trial.json, typed. Plugins are loaded later, so that a broken one becomes a record."""

    folder: Path
    key: str
    labels: Labels
    config: Config
    entry_points: dict[str, str]
    checkpoint: Path  # of the dense model
    raw: dict[str, Any]

    @property
    def is_dense(self) -> bool:
        return self.labels.method == "dense"

    @property
    def device(self) -> torch.device:
        return torch.device("cpu" if self.config.gpu.kind == "cpu" else "cuda")

    @property
    def num_threads(self) -> int:
        """Threads that the whole trial computes with."""
        return self.config.gpu.threads or environment.num_physical_cores()

    def inference(self) -> AbstractContextManager[Any]:
        """Inference in the number format of the training: the table names that one."""
        if self.config.gpu.precision == "32":
            return contextlib.nullcontext()
        dtype = {"bf16": torch.bfloat16, "16": torch.float16}[self.config.gpu.precision]
        return torch.autocast(self.device.type, dtype)

    def plugin(self, kind: str) -> Any:
        """The method, backbone or task with its settings."""
        module, _, name = self.entry_points[kind].partition(":")
        cls = getattr(importlib.import_module(module), name)
        return construct(cls, getattr(self.config, kind))


def read_trial(folder: Path) -> Trial:
    """Read `folder`/trial.json. Raises BadTrial naming the file and what is wrong with it."""
    path = folder / TRIAL_NAME
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        config, labels, key = typed(raw["config"]), Labels.model_validate(raw["labels"]), raw["key"]
        return Trial(
            folder=folder,
            key=key,
            labels=labels,
            config=config,
            entry_points=raw["entry_points"],
            checkpoint=_results(folder, config, labels, key) / raw["dense"]["checkpoint"],
            raw=raw,
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadTrial(f"{path}: {type(error).__name__}: {error}") from error


def _results(folder: Path, config: Config, labels: Labels, key: str) -> Path:
    """The results tree that `folder` lies in, whatever directory we are in; else the config's."""
    below = layout.trial_folder(Path(), labels, key).parts
    whole = folder.resolve()
    if whole.parts[-len(below) :] == below:
        return whole.parents[len(below) - 1]
    return Path(config.results)


def prepare(trial: Trial, tell: OnPhase) -> tuple[Subject, dict[str, Metric]]:
    """Build, train and calibrate what `trial` describes: ready to be measured, and its cost."""
    tell("build", 0.0)
    task, backbone = trial.plugin("task"), trial.plugin("backbone")
    method = resolve(trial.plugin("method"))
    refuse_unsupported(trial.config.measure, task.spec, method.flags)
    _refuse_idle_gpus(trial)
    _seed(trial.config.seed)
    tell("train", 0.0)
    with ranks.together(trial.device, trial.config.timeout_s):
        model, metrics = _trained(trial, task, backbone, method, tell)
        if ranks.count() > 1:  # whoever measures compares with it, and is alone then
            _dense(trial, task, backbone, tell)
    model.to(trial.device).eval()
    if method.hooks.calibrate is not None and ranks.number() == 0:
        tell("calibrate", 0.0)
        with trial.inference(), torch.no_grad():
            held_out = task.batches("calibration", CALIBRATION_BATCH)
            method.hooks.calibrate(model, [batch.to(trial.device) for batch in held_out])
    subject = Subject(
        model=model,
        method=method,
        task=task,
        device=trial.device,
        config=trial.config.measure,
        make_baseline=lambda: _dense(trial, task, backbone, tell).model.to(trial.device).eval(),
        is_dense=trial.is_dense,
    )
    return subject, metrics


def _refuse_idle_gpus(trial: Trial) -> None:
    """A trial over all GPUs needs a process for each: with fewer its training time would lie."""
    num_gpus = torch.cuda.device_count() if trial.config.gpu.kind == "ddp" else 0
    if num_gpus > ranks.launched():
        raise ValueError(
            f"gpu=ddp trains on all {num_gpus} visible GPUs, with one process each, and this is "
            f"{ranks.launched()}: `condbench run` starts them, or torchrun "
            f"--nproc-per-node={num_gpus} -m bench.launch.child FOLDER bench.trial.run:run"
        )


def _trained(
    trial: Trial, task: Task, backbone: Backbone, method: ResolvedMethod, tell: OnPhase
) -> tuple[nn.Module, dict[str, Metric]]:
    """The trained model and what training it cost."""
    if trial.is_dense:
        start = _dense(trial, task, backbone, tell)
        return start.model, start.metrics
    if method.hooks.convert is not None:
        start = _dense(trial, task, backbone, tell)
        _seed(trial.config.seed)
        model = method.hooks.convert(
            start.model, list(task.batches("calibration", CALIBRATION_BATCH))
        )
        dense_s = start.metrics["train/time_s"]
    else:
        _seed(trial.config.seed)
        model = method.hooks.build(task.spec, backbone)
        dense_s = missing("s", "trained from scratch, not from the dense model")
    share = method.flags.train_share
    metrics = _train(trial, task, method.hooks, share, model, tell)
    return model, {**metrics, "train/dense_time_s": dense_s}


def _dense(trial: Trial, task: Task, backbone: Backbone, tell: OnPhase) -> DenseStart:
    """The shared dense model of this task, backbone, seed and recipe."""

    def build() -> nn.Module:
        _seed(trial.config.seed)
        return backbone.build(task.spec)

    def train(model: nn.Module) -> dict[str, Metric]:
        return _train(trial, task, DEFAULT_HOOKS, 1.0, model, tell)

    return dense_start(trial.checkpoint, build, train)


def _train(
    trial: Trial, task: Task, hooks: Hooks, share: float, model: nn.Module, tell: OnPhase
) -> dict[str, Metric]:
    """Train `model` for a `share` of the recipe's steps; what it cost."""
    recipe = resolve_recipe(task.recipe, trial.config.train, share)
    probe = TrainingProbe(model)
    energy = TrainingEnergy([trial.device] if recipe.steps else [])
    if ranks.number() > 0:  # of the same random numbers each process would make the same noise
        _seed(trial.config.seed + NUM_SEEDS * ranks.number())
    with energy, pinned_threads(max(1, torch.get_num_threads() // ranks.count())):
        training = fit(
            model,
            hooks,
            task,
            recipe,
            seed=trial.config.seed,
            gpu=trial.config.gpu,
            on_step=lambda done: tell("train", done),
            probes=(energy.leaving_out(probe.memory), energy.leaving_out(probe.flops)),
        )
    no_step = "training free: the method takes no training step"
    unprobed = no_step if training.num_steps == 0 else "too few training steps to probe one"
    return {
        "train/time_s": Metric(value=training.time_s, unit="s"),
        "train/num_steps": Metric(value=training.num_steps, unit="count"),
        "train/loss": missing("nat", no_step)
        if training.loss is None
        else Metric(value=training.loss, unit="nat"),
        **probe.metrics(unprobed),
        **energy.metrics(no_step if training.num_steps == 0 else None),
    }


def _seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
