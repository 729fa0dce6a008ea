"""Training FLOPs as the method's paper counts them, beside what training executed.

published_per_sample    by the method's hook `training_flops`
dense_per_sample        three forward passes of the dense model, by the same convention
published_ratio         of the two
executed_per_sample     train/flops_per_step by the samples of a step
reasons                 why the two numbers differ, or why a field is null
"""

from __future__ import annotations

from typing import Any

from bench.measure.findings import Part
from bench.measure.subject import Metrics, Subject
from bench.records.catalogue import FLOPS, TRAIN_FLOPS, TRAIN_STEPS

NAME = "training_flops"
PASSES = 3  # forward, and the gradients of inputs and of weights
CONVENTION = "by the paper's formula, for kernels that skip what is not stored; not executed here"


def measure_published_training(subject: Subject, metrics: Metrics, dense: float) -> Part:
    """The entry `training_flops`; `dense`: executed FLOPs per sample of the dense model."""
    hook, forward = subject.method.hooks.training_flops, metrics[FLOPS.at()].shown
    steps = metrics.get(TRAIN_STEPS.at())
    reasons = {"published_per_sample": CONVENTION}
    published = None
    if steps is None or not steps.shown:
        reasons["published_per_sample"] = "no training step"
    elif hook is None or forward is None:
        reasons["published_per_sample"] = "FLOPs of a forward pass are not known"
    else:
        published = hook(subject.model, forward, dense)
    executed, step = None, metrics.get(TRAIN_FLOPS.at())
    if step is not None and step.shown is not None and subject.train_batch_size:
        executed = step.shown / subject.train_batch_size
    else:
        reasons["executed_per_sample"] = "no training step was counted"
    entry: dict[str, Any] = {
        "published_per_sample": published,
        "dense_per_sample": PASSES * dense,
        "published_ratio": None if published is None else published / (PASSES * dense),
        "executed_per_sample": executed,
        "reasons": reasons,
    }
    return Part(diagnostics={NAME: entry})
