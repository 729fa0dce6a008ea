"""From an untrained model to a trained one: the dense start, the steps, and what they cost.

With train.flops the steps are those that the budget pays for (`bench.trial.flop_budget`).
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from bench import ranks
from bench.config import NUM_SEEDS
from bench.measure.energy.training import TrainingEnergy
from bench.measure.metrics import metric, missing_metric
from bench.measure.points.halves import FIT, half
from bench.measure.training_probe import TrainingProbe
from bench.meters.conditions import pinned_threads
from bench.meters.shared.state import settings_kept
from bench.plugins.hooks import DEFAULT_HOOKS, Hooks, ResolvedMethod
from bench.records.catalogue import (
    DENSE_TIME,
    TRAIN_FLOPS,
    TRAIN_LOSS,
    TRAIN_STEPS,
    TRAIN_TIME,
    TRAIN_TOTAL,
)
from bench.records.record import Metric
from bench.trial.dense_start import DenseStart, dense_start
from bench.trial.fine_tuning import with_fine_tuning
from bench.trial.flop_budget import count_step, counted_steps, steps_within
from bench.trial.train import Training, fit, resolve_recipe
from bench.trial.trial import Trial
from bench.types import Backbone, Recipe, Task

OnPhase = Callable[[str, float], None]  # (phase, share done in 0..1)
CALIBRATION_BATCH = 64
Costs = dict[str, Metric]


@dataclass(frozen=True)
class Trainer:
    """Trains the models of one trial, on all of its ranks together."""

    trial: Trial
    task: Task
    backbone: Backbone
    method: ResolvedMethod
    report_progress: OnPhase

    def train_in_group(self) -> tuple[nn.Module, Costs]:
        """The trained model and what training it cost.

        Raises Unsupported where train.flops does not pay for the dense start and a step.
        """
        with ranks.process_group(self.trial.device, self.trial.config.timeout_s):
            model, costs = self._train_method()
            if ranks.group_size() > 1:
                # Rank 0 measures alone and needs the dense model for comparison: train it while
                # all ranks are here, also for methods that do not start from it.
                self.load_dense()
        return model, costs

    def load_dense(self) -> DenseStart:
        """The shared dense model of this task, backbone, seed and recipe; trained if missing."""
        trial, budget = self.trial, self.trial.config.train.flops

        def train(model: nn.Module) -> Costs:
            recipe = resolve_recipe(self.task.recipe, trial.config.train)
            if budget is not None:
                recipe = self._within(budget, 0.0, model, DEFAULT_HOOKS, recipe)
            return self._train(model, DEFAULT_HOOKS, recipe)

        return dense_start(trial.checkpoint, self._build_dense, train)

    def _build_dense(self) -> nn.Module:
        seed_all(self.trial.config.seed)  # the same model whichever trial trains it
        return self.backbone.build(self.task.spec)

    def _train_method(self) -> tuple[nn.Module, Costs]:
        trial, hooks = self.trial, self.method.hooks
        if trial.is_dense:
            dense = self.load_dense()
            return dense.model, dense.metrics
        start = self._load_start() if hooks.convert is not None else None
        # Again: the dense model may have been trained just now or loaded, and what the method
        # draws must be the same in both cases.
        seed_all(trial.config.seed)
        if start is None:
            model = hooks.build(self.task.spec, self.backbone)
            dense_s = missing_metric(DENSE_TIME, "trained from scratch, not from the dense model")
        else:
            assert hooks.convert is not None
            held_out = list(half(self.task, FIT, CALIBRATION_BATCH))
            model = hooks.convert(start.model, held_out)
            share = trial.config.train.fine_tune_lr_share
            hooks = with_fine_tuning(hooks, start.model, model, share)
            dense_s = start.metrics[TRAIN_TIME.at()]
        costs = self._train(model, hooks, self._recipe(model, hooks, start), start)
        return model, {**costs, DENSE_TIME.at(): dense_s}

    def _load_start(self) -> DenseStart:
        """The dense model that the method starts from.

        With train.flops it is trained by the task's recipe, so that all methods and budgets share
        it; without training of the method's own all FLOPs of the budget are the start's.
        """
        config, budget = self.trial.config.train, self.trial.config.train.flops
        if budget is None or not self.method.flags.train_share:
            return self.load_dense()
        recipe = resolve_recipe(self.task.recipe, config)
        # Before it is trained: a start that the budget excludes must not cost an hour.
        model = self._build_dense()
        needed = recipe.steps * count_step(model, DEFAULT_HOOKS, self.task, recipe, self.trial)
        steps_within(budget, needed)
        return dense_start(
            self.trial.start,
            self._build_dense,
            lambda dense: self._train(dense, DEFAULT_HOOKS, recipe, up_to=needed / budget),
        )

    def _recipe(self, model: nn.Module, hooks: Hooks, start: DenseStart | None) -> Recipe:
        """How `model` is trained, after `start` where it has one."""
        config, share = self.trial.config.train, self.method.flags.train_share
        recipe = resolve_recipe(self.task.recipe, config, share)
        if config.flops is None or not recipe.steps:
            return recipe
        spent = start.metrics[TRAIN_TOTAL.at()].value if start is not None else 0.0
        return self._within(config.flops, spent or 0.0, model, hooks, recipe)

    def _within(
        self, budget: float, spent: float, model: nn.Module, hooks: Hooks, recipe: Recipe
    ) -> Recipe:
        """`recipe` with the steps that the budget pays for beside what is `spent`."""
        step = count_step(model, hooks, self.task, recipe, self.trial)
        seed_all(self.trial.config.seed)  # counting has drawn random numbers
        return replace(recipe, steps=steps_within(budget, spent, step))

    def _train(
        self,
        model: nn.Module,
        hooks: Hooks,
        recipe: Recipe,
        start: DenseStart | None = None,
        up_to: float = 1.0,
    ) -> Costs:
        """Train `model`; the metrics of its cost. `up_to`: the share of the budget then spent."""
        trial, probe = self.trial, TrainingProbe(model)
        energy = TrainingEnergy([trial.device] if recipe.steps else [])
        before = _share_before(start, trial.config.train.flops)
        if ranks.rank() > 0:
            # Equal seeds would give all ranks the same dropout masks and Gumbel noise. Seeds below
            # NUM_SEEDS are those of trials.
            seed_all(trial.config.seed + NUM_SEEDS * ranks.rank())
        # The energy window leaves the probes out, as the training time does.
        memory, flops = energy.leaving_out(probe.memory), energy.leaving_out(probe.flops)
        # The ranks of a CPU trial share its cores.
        num_threads = max(1, torch.get_num_threads() // ranks.group_size())
        with energy, pinned_threads(num_threads), settings_kept("training"):
            training = fit(
                model,
                hooks,
                self.task,
                recipe,
                seed=trial.config.seed,
                gpu=trial.config.gpu,
                on_step=lambda done: self.report_progress(
                    "train", before + (up_to - before) * done
                ),
                # The first step is not probed: it allocates optimiser states and fills caches.
                probes={1: memory, **dict.fromkeys(counted_steps(recipe.steps), flops)},
            )
        return _costs(training, probe, energy, start)


def _share_before(start: DenseStart | None, budget: float | None) -> float:
    """The share of the budget that the start has spent; 0 without a budget."""
    if start is None or budget is None:
        return 0.0
    return (start.metrics[TRAIN_TOTAL.at()].value or 0.0) / budget


def _costs(
    training: Training, probe: TrainingProbe, energy: TrainingEnergy, start: DenseStart | None
) -> Costs:
    """Metrics of a finished training; without a step each is missing with the reason."""
    no_step = "training free: the method takes no training step"
    unprobed = no_step if training.num_steps == 0 else "too few training steps to probe one"
    probed = probe.metrics(unprobed)
    return {
        TRAIN_TIME.at(): metric(TRAIN_TIME, training.time_s),
        TRAIN_STEPS.at(): metric(TRAIN_STEPS, training.num_steps),
        TRAIN_LOSS.at(): missing_metric(TRAIN_LOSS, no_step)
        if training.loss is None
        else metric(TRAIN_LOSS, training.loss),
        **probed,
        TRAIN_TOTAL.at(): _total(training.num_steps, probed[TRAIN_FLOPS.at()], start),
        **energy.metrics(no_step if training.num_steps == 0 else None),
    }


def _total(num_steps: int, step: Metric, start: DenseStart | None) -> Metric:
    """FLOPs of all steps and of the dense start's; as doubtful as the parts are."""
    before = None if start is None else start.metrics[TRAIN_TOTAL.at()]
    # No step costs nothing, whatever one would have cost.
    own = Metric(value=0.0, unit=step.unit) if num_steps == 0 else step
    parts = [own] if before is None else [own, before]
    doubts = [each.reason for each in parts if each.reason]
    if any(each.value is None for each in parts):
        return missing_metric(TRAIN_TOTAL, doubts[0])
    value = num_steps * (own.value or 0.0) + (before.value or 0.0 if before is not None else 0.0)
    return metric(TRAIN_TOTAL, value, doubts[0] if doubts else None)


def seed_all(seed: int) -> None:
    """Seed Python, numpy and torch: plugins may draw from any of them."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # numpy takes 32 bits only
    torch.manual_seed(seed)
