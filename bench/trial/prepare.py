"""From a trial to its trained model: build, train, calibrate.

    prepare(read_trial(folder), report_progress)    a Subject, ready to be measured; training's cost

Under torchrun all ranks train together. Only rank 0 calibrates, since it alone measures.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from bench import ranks
from bench.config import NUM_SEEDS
from bench.measure import Subject
from bench.measure.energy.training import TrainingEnergy
from bench.measure.generation import refuse_unsupported
from bench.measure.inputs import draw_samples
from bench.measure.metrics import metric, missing_metric
from bench.measure.points.halves import FIT, half
from bench.measure.stated_share import Forced, force_share, stated_experts
from bench.measure.training_probe import TrainingProbe
from bench.meters.conditions import pinned_threads
from bench.meters.shared.state import settings_kept
from bench.plugins.hooks import DEFAULT_HOOKS, Hooks, ResolvedMethod, resolve
from bench.records.catalogue import DENSE_TIME, TRAIN_LOSS, TRAIN_STEPS, TRAIN_TIME
from bench.records.record import Metric
from bench.routing import OWN
from bench.trial.dense_start import DenseStart, dense_start
from bench.trial.fine_tuning import with_fine_tuning
from bench.trial.guarded import guarded, shared_with
from bench.trial.train import Training, fit, resolve_recipe
from bench.trial.trial import Trial
from bench.types import Backbone, Recipe, Task

OnPhase = Callable[[str, float], None]  # (phase, share done in 0..1)
CALIBRATION_BATCH = 64


def prepare(trial: Trial, report_progress: OnPhase) -> tuple[Subject, dict[str, Metric]]:
    """Build, train and calibrate what `trial` describes: the subject to measure, training's cost.

    Raises Unsupported where method, backbone, task and workload do not go together; other errors
    are those of the plugins.
    """
    report_progress("build", 0.0)
    task, backbone = trial.plugin("task"), trial.plugin("backbone")
    seed_all(trial.config.seed)  # before the state is noted, of which the seed is a part
    shared = shared_with(task, backbone)
    with shared.kept("importing the method"):
        method = resolve(trial.plugin("method"))
    method = replace(method, hooks=guarded(method.hooks))
    # Before training: what cannot be measured must not cost an hour first.
    refuse_unsupported(trial.config.measure, task.spec, method.flags)
    _refuse_idle_gpus(trial)
    seed_all(trial.config.seed)
    report_progress("train", 0.0)
    model, metrics = _train_in_group(trial, task, backbone, method, report_progress)
    model.to(trial.device).eval()
    if ranks.rank() == 0:
        _calibrate(trial, task, method.hooks, model, report_progress)

    forced = _force_share(trial, task, model)
    if ranks.rank() == 0:  # the others have seeds of their own
        # All that the method did so far; later passes are watched where they are measured.
        shared.refuse_changes("preparing the method")

    def make_baseline() -> nn.Module:
        # Called late: peak memory of the method is measured before a second model exists.
        # From a backbone of its own: a method may have changed the one that it was given.
        dense = _load_dense(trial, task, trial.plugin("backbone"), report_progress)
        return dense.model.to(trial.device).eval()

    subject = Subject(
        model=model,
        method=method,
        task=task,
        device=trial.device,
        config=trial.config.measure,
        make_baseline=make_baseline,
        is_dense=trial.is_dense,
        forced=forced,
        train_batch_size=resolve_recipe(task.recipe, trial.config.train).batch_size,
    )
    return subject, metrics


def _force_share(trial: Trial, task: Task, model: nn.Module) -> Forced | None:
    """Let the gates run the share, and the experts, that `measure` states, if any."""
    config = trial.config.measure
    if (config.force_share is None and config.routing == OWN) or trial.is_dense:
        return None
    with trial.inference():
        inputs = draw_samples(task, config.num_inputs).to(trial.device)
        return force_share(model, config.force_share, inputs, stated_experts(config, len(inputs)))


def _calibrate(
    trial: Trial, task: Task, hooks: Hooks, model: nn.Module, report_progress: OnPhase
) -> None:
    """Call the method's `calibrate`, if it has one, on held-out batches."""
    if hooks.calibrate is None:
        return
    report_progress("calibrate", 0.0)
    # In the precision of inference: a threshold found in fp32 would select another share in bf16.
    with trial.inference(), torch.no_grad():
        held_out = [each.to(trial.device) for each in half(task, FIT, CALIBRATION_BATCH)]
        hooks.calibrate(model, held_out)


def _refuse_idle_gpus(trial: Trial) -> None:
    """Raises ValueError for gpu=ddp with fewer processes than GPUs.

    Its training time would be recorded as that of all GPUs.
    """
    num_gpus = torch.cuda.device_count() if trial.config.gpu.kind == "ddp" else 0
    if num_gpus > ranks.world_size():
        raise ValueError(
            f"gpu=ddp trains on all {num_gpus} visible GPUs, with one process each, but the number "
            f"of processes is {ranks.world_size()}: `condbench run` starts them, or torchrun "
            f"--nproc-per-node={num_gpus} -m bench.launch.child FOLDER bench.trial.run:run"
        )


def _train_in_group(
    trial: Trial,
    task: Task,
    backbone: Backbone,
    method: ResolvedMethod,
    report_progress: OnPhase,
) -> tuple[nn.Module, dict[str, Metric]]:
    """As `_train_method`, by all ranks of the trial together."""
    with ranks.process_group(trial.device, trial.config.timeout_s):
        model, metrics = _train_method(trial, task, backbone, method, report_progress)
        if ranks.group_size() > 1:
            # Rank 0 measures alone and needs the dense model for comparison: train it while all
            # ranks are here, also for methods that do not start from it.
            _load_dense(trial, task, backbone, report_progress)
    return model, metrics


def _train_method(
    trial: Trial,
    task: Task,
    backbone: Backbone,
    method: ResolvedMethod,
    report_progress: OnPhase,
) -> tuple[nn.Module, dict[str, Metric]]:
    """The trained model and what training it cost."""
    if trial.is_dense:
        start = _load_dense(trial, task, backbone, report_progress)
        return start.model, start.metrics
    hooks = method.hooks
    if method.hooks.convert is not None:
        start = _load_dense(trial, task, backbone, report_progress)
        # Again: the dense model may have been trained just now or loaded, and what the method
        # draws must be the same in both cases.
        seed_all(trial.config.seed)
        model = method.hooks.convert(start.model, list(half(task, FIT, CALIBRATION_BATCH)))
        hooks = with_fine_tuning(hooks, start.model, model, trial.config.train.fine_tune_lr_share)
        dense_s = start.metrics[TRAIN_TIME.at()]
    else:
        seed_all(trial.config.seed)
        model = method.hooks.build(task.spec, backbone)
        dense_s = missing_metric(DENSE_TIME, "trained from scratch, not from the dense model")
    recipe = resolve_recipe(task.recipe, trial.config.train, method.flags.train_share)
    metrics = _train(trial, task, hooks, recipe, model, report_progress)
    return model, {**metrics, DENSE_TIME.at(): dense_s}


def _load_dense(
    trial: Trial, task: Task, backbone: Backbone, report_progress: OnPhase
) -> DenseStart:
    """The shared dense model of this task, backbone, seed and recipe; trained if there is none."""

    def build() -> nn.Module:
        seed_all(trial.config.seed)  # the same model whichever trial trains it
        return backbone.build(task.spec)

    def train(model: nn.Module) -> dict[str, Metric]:
        recipe = resolve_recipe(task.recipe, trial.config.train)
        return _train(trial, task, DEFAULT_HOOKS, recipe, model, report_progress)

    return dense_start(trial.checkpoint, build, train)


def _train(
    trial: Trial,
    task: Task,
    hooks: Hooks,
    recipe: Recipe,
    model: nn.Module,
    report_progress: OnPhase,
) -> dict[str, Metric]:
    """Train `model`; the metrics of its cost."""
    probe = TrainingProbe(model)
    energy = TrainingEnergy([trial.device] if recipe.steps else [])
    if ranks.rank() > 0:
        # Equal seeds would give all ranks the same dropout masks and Gumbel noise. Seeds below
        # NUM_SEEDS are those of trials.
        seed_all(trial.config.seed + NUM_SEEDS * ranks.rank())
    # The ranks of a CPU trial share its cores.
    num_threads = max(1, torch.get_num_threads() // ranks.group_size())
    with energy, pinned_threads(num_threads), settings_kept("training"):
        training = fit(
            model,
            hooks,
            task,
            recipe,
            seed=trial.config.seed,
            gpu=trial.config.gpu,
            on_step=lambda done: report_progress("train", done),
            # The energy window leaves both probes out, as the training time does.
            probes=(energy.leaving_out(probe.memory), energy.leaving_out(probe.flops)),
        )
    return _training_metrics(training, probe, energy)


def _training_metrics(
    training: Training, probe: TrainingProbe, energy: TrainingEnergy
) -> dict[str, Metric]:
    """Metrics of a finished training; without a step each is missing with the reason."""
    no_step = "training free: the method takes no training step"
    unprobed = no_step if training.num_steps == 0 else "too few training steps to probe one"
    return {
        TRAIN_TIME.at(): metric(TRAIN_TIME, training.time_s),
        TRAIN_STEPS.at(): metric(TRAIN_STEPS, training.num_steps),
        TRAIN_LOSS.at(): missing_metric(TRAIN_LOSS, no_step)
        if training.loss is None
        else metric(TRAIN_LOSS, training.loss),
        **probe.metrics(unprobed),
        **energy.metrics(no_step if training.num_steps == 0 else None),
    }


def seed_all(seed: int) -> None:
    """Seed Python, numpy and torch: plugins may draw from any of them."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # numpy takes 32 bits only
    torch.manual_seed(seed)
