"""From a trial to its trained model: build, train, calibrate.

    prepare(read_trial(folder), report_progress)    a Subject, ready to be measured; training's cost

Under torchrun all ranks train together. Only rank 0 calibrates, since it alone measures.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from bench import ranks
from bench.measure import Subject
from bench.measure.generation import refuse_unsupported
from bench.measure.inputs import draw_samples
from bench.measure.points.halves import FIT, half
from bench.measure.stated_share import Forced, force_share, stated_experts
from bench.plugins.hooks import Hooks, resolve
from bench.records.record import Metric
from bench.routing import OWN
from bench.trial.guarded import guarded, shared_with
from bench.trial.train import resolve_recipe
from bench.trial.trained import CALIBRATION_BATCH, OnPhase, Trainer, seed_all
from bench.trial.trial import Trial
from bench.types import Task


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
    model, metrics = Trainer(trial, task, backbone, method, report_progress).train_in_group()
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
        trainer = Trainer(trial, task, trial.plugin("backbone"), method, report_progress)
        dense = trainer.load_dense()
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
