"""Training: the only module with Lightning.

    fit(model, hooks, task, recipe, ...) -> Training

runs the recipe (AdamW, linear warm-up, then cosine) over seeded data. Some steps are probed, for
memory and for FLOPs; their time is subtracted from the training time.

With several ranks (`bench.ranks`) each takes its share of every batch: together they see the same
samples in the same order as one process, whose loss and gradient are the mean of theirs.
"""

from __future__ import annotations

import logging
import math
import os
import signal
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from functools import partial
from types import MappingProxyType
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.environments import (
    ClusterEnvironment,
    LightningEnvironment,
    TorchElasticEnvironment,
)
from torch import Tensor, nn

from bench import ranks
from bench.config import GpuConfig, TrainConfig
from bench.plugins.hooks import Hooks
from bench.trial.batches import EndlessBatches
from bench.types import Batch, Recipe, Task

OnStep = Callable[[float], None]  # share of the steps done, 0..1
Probe = Callable[[Callable[[], Any], torch.optim.Optimizer], None]
MAX_GRADIENT_NORM = 1.0
REPORT_EVERY = 20  # steps; seldom, because reading a loss waits for the GPU


class Diverged(Exception):
    """The training loss or a weight is no longer a finite number."""


@dataclass
class Training:
    """What training cost and where it ended."""

    num_steps: int
    time_s: float
    loss: float | None  # of the last step; None without a step


def resolve_recipe(recipe: Recipe, config: TrainConfig, share: float = 1.0) -> Recipe:
    """The task's recipe with what the experiment overrides, cut to a `share` of its steps."""
    names = (each.name for each in fields(Recipe) if hasattr(config, each.name))
    given = {name: value for name in names if (value := getattr(config, name)) is not None}
    full = replace(recipe, **given)
    return replace(full, steps=math.ceil(full.steps * share))


def fit(
    model: nn.Module,
    hooks: Hooks,
    task: Task,
    recipe: Recipe,
    *,
    seed: int,
    gpu: GpuConfig,
    on_step: OnStep = lambda share: None,
    probes: Mapping[int, Probe] = MappingProxyType({}),
) -> Training:
    """Train `model` in place on the task's train split.

    Of `hooks`, `loss`, `after_step` and `param_groups` are called. Each of `probes`, by the number
    of a step from 0, is called with this step and the optimiser and must call the step exactly
    once. Raises ValueError for a batch that is larger than the data or cannot be shared evenly by
    the ranks, Diverged when the loss, or a trained weight, is not finite.
    """
    if recipe.steps == 0:
        return Training(0, 0.0, None)
    check_batch(task, recipe)  # also makes or reads the data, before the clock starts
    module = _Module(model, hooks, task, recipe)
    progress = _Progress(recipe.steps, on_step)
    module.probes = probes
    # Lightning's hints about devices and paid loggers do not belong in a trial's log.
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    trainer = _make_trainer(recipe, gpu, progress)
    started = time.perf_counter()
    with warnings.catch_warnings():
        # Lightning advises on workers and logging intervals; our data is in memory already.
        warnings.simplefilter("ignore")
        trainer.fit(module, train_dataloaders=EndlessBatches(task, recipe.batch_size, seed))
    elapsed = time.perf_counter() - started - module.probe_s
    loss = progress.check_loss(trainer.global_step)
    _refuse_infinite_weights(model)
    return Training(recipe.steps, elapsed, loss)


def training_loss(
    model: nn.Module, batch: Batch, hooks: Hooks, task: Task, progress: float
) -> Tensor:
    """The scalar that a training step minimises, at `progress` in 0..1."""
    if hooks.loss is not None:
        loss: Tensor = hooks.loss(model, batch, task.criterion, progress)
        return loss
    output = model(batch)
    return task.criterion(output, batch) + output.aux_loss


def _refuse_infinite_weights(model: nn.Module) -> None:
    """Raises Diverged where a trained weight is NaN or infinite.

    No loss was computed after the last step, and an arg max of NaN would still be scored.
    """
    for name, parameter in model.named_parameters():
        # torch.isfinite has no kernel for sparse layouts.
        is_trained = parameter.requires_grad and parameter.layout == torch.strided
        if is_trained and not bool(torch.isfinite(parameter).all()):
            raise Diverged(f"after the last step {name} holds NaN or infinity")


def check_batch(task: Task, recipe: Recipe) -> None:
    """Raises ValueError for a batch that exceeds the data or cannot be shared by the ranks."""
    ranks.local_share(recipe.batch_size, "train.batch_size")
    # The train split drops a ragged last batch: with less than one batch a pass would be empty, and
    # training would never end.
    num_samples = task.num_samples("train")
    if num_samples < recipe.batch_size:
        raise ValueError(
            f"train.batch_size={recipe.batch_size} is more than the {num_samples} training samples"
        )


def _make_trainer(recipe: Recipe, gpu: GpuConfig, progress: _Progress) -> pl.Trainer:
    on_gpu = gpu.kind != "cpu"
    precision: Any = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}[gpu.precision]
    return pl.Trainer(
        max_steps=recipe.steps,
        accelerator="gpu" if on_gpu else "cpu",
        devices=ranks.group_size(),
        # Conditional models leave out parameters: an expert without tokens has no gradient, and DDP
        # would wait for it.
        strategy="ddp_find_unused_parameters_true" if ranks.group_size() > 1 else "auto",
        plugins=[_environment()],
        # No folder: in a job Lightning would continue from a checkpoint that it finds there.
        default_root_dir=os.devnull,
        precision=precision,
        gradient_clip_val=MAX_GRADIENT_NORM,
        callbacks=[progress],
        # Records, checkpoints and progress are the trial's own.
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def _environment() -> ClusterEnvironment:
    """Where Lightning reads ranks and addresses: torchrun's variables, or none for one rank.

    Left to detect it, Lightning would take the tasks of a scheduler's job for ranks.
    """
    return TorchElasticEnvironment() if ranks.group_size() > 1 else LightningEnvironment()


class _Module(pl.LightningModule):
    """The method's loss on the task's batches, with the recipe's optimiser."""

    def __init__(self, model: nn.Module, hooks: Hooks, task: Task, recipe: Recipe) -> None:
        super().__init__()
        self.model, self.hooks, self.task, self.recipe = model, hooks, task, recipe
        self.probes: Mapping[int, Probe] = {}
        self.probe_s = 0.0

    def transfer_batch_to_device(self, batch: Batch, device: Any, dataloader_idx: int) -> Batch:
        # Lightning refuses frozen dataclasses, so the batch moves itself.
        return batch.to(device)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        progress = self.trainer.global_step / self.recipe.steps
        return training_loss(self.model, batch, self.hooks, self.task, progress)

    def optimizer_step(self, *arguments: Any, **keywords: Any) -> None:
        # Lightning's closure runs forward, backward and update: one call is the whole step.
        step = partial(super().optimizer_step, *arguments, **keywords)
        if (probe := self.probes.get(self.trainer.global_step)) is not None:
            started = time.perf_counter()
            probe(step, self.trainer.optimizers[0])
            self.probe_s += time.perf_counter() - started
        else:
            step()
        if self.hooks.after_step is not None:
            # Straight after the update: the step's gradients are still set, and Lightning has not
            # counted the step yet.
            done = self.trainer.global_step + 1
            self.hooks.after_step(self.model, done / self.recipe.steps)

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        # Lightning refuses to clip for a fused optimiser under any mixed precision, because such
        # an optimiser undoes fp16's loss scaling itself. bf16 has no scaling: clip it here.
        if self._is_fused:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), MAX_GRADIENT_NORM)
        else:
            super().configure_gradient_clipping(
                optimizer, gradient_clip_val, gradient_clip_algorithm
            )

    @property
    def _is_fused(self) -> bool:
        """One kernel for all parameters. Under fp16's loss scaling it could not clip gradients."""
        return self.trainer.precision != "16-mixed"

    def configure_optimizers(self) -> Any:
        lr = self.recipe.lr
        groups = (
            self.hooks.param_groups(self.model, lr)
            if self.hooks.param_groups is not None
            else [p for p in self.model.parameters() if p.requires_grad]
        )
        optimizer = torch.optim.AdamW(
            groups, lr=lr, weight_decay=self.recipe.weight_decay, fused=self._is_fused
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self._lr_scale)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    def _lr_scale(self, step: int) -> float:
        """Factor of the learning rate: linear warm-up, then half a cosine down to 0."""
        warmup = max(1, round(self.recipe.steps * self.recipe.warmup_share))
        if step < warmup:
            return (step + 1) / warmup  # + 1: a first step at rate 0 would be wasted
        rest = (step - warmup) / max(1, self.recipe.steps - warmup)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, rest)))


class _Progress(pl.Callback):
    """Reports the share of steps done, and stops a run that has diverged."""

    def __init__(self, num_steps: int, on_step: OnStep) -> None:
        self.num_steps, self.on_step = num_steps, on_step
        self.loss: Tensor | None = None

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        if ranks.group_size() > 1:
            # On torchrun's SIGTERM Lightning would start a collective with ranks that have ended.
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.loss = outputs["loss"]
        if trainer.global_step % REPORT_EVERY == 0:
            self.check_loss(trainer.global_step)
            self.on_step(trainer.global_step / self.num_steps)

    def check_loss(self, step: int) -> float:
        """The latest loss, the mean over ranks. Raises Diverged if it is not finite."""
        # Gathered before it is judged: a rank that raised alone would leave the others waiting.
        loss = float(self.loss) if self.loss is not None else math.nan
        loss = sum(ranks.all_gather(loss)) / ranks.group_size()
        if not math.isfinite(loss):
            raise Diverged(f"the training loss was {loss} at step {step}")
        return loss
