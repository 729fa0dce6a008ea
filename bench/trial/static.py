"""A trial with measure.counts_only=true: untrained weights, parameters and executed FLOPs.

Nothing is trained, stored or compared, so that models of published size take seconds; those that do
not fit into memory are built on the meta device (measure.meta).
"""

from __future__ import annotations

import torch
from torch import nn

from bench.measure import Findings
from bench.measure.points.halves import FIT, half
from bench.measure.static import measure_static
from bench.plugins.hooks import Hooks, resolve
from bench.trial.trained import CALIBRATION_BATCH, OnPhase, seed_all
from bench.trial.trial import Trial
from bench.types import Backbone, Batch, Task


def count_only(trial: Trial, report_progress: OnPhase) -> Findings:
    """Build the method's model and count it at every operating point.

    Raises Unsupported where method, backbone and task do not go together.
    """
    report_progress("build", 0.0)
    task, backbone = trial.plugin("task"), trial.plugin("backbone")
    method = resolve(trial.plugin("method"))
    seed_all(trial.config.seed)
    held_out = [batch.to(trial.device) for batch in half(task, FIT, CALIBRATION_BATCH)]
    # A device context: on meta, weights are made without memory.
    with trial.device:
        model = _build(method.hooks, task, backbone, held_out).eval()
        if method.hooks.calibrate is not None and not trial.config.measure.meta:
            with torch.no_grad():
                method.hooks.calibrate(model, held_out)
    report_progress("flops", 0.0)
    return measure_static(model, method, task, trial.config.measure, trial.device)


def _build(hooks: Hooks, task: Task, backbone: Backbone, held_out: list[Batch]) -> nn.Module:
    model: nn.Module
    if hooks.convert is None:
        model = hooks.build(task.spec, backbone)
    else:
        model = hooks.convert(backbone.build(task.spec).eval(), held_out)
    return model
