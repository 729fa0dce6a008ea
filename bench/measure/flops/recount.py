"""Do the same inputs still cost what they cost before thousands of timed calls?

A model that looks up what it has often seen, or that gives up after so many calls, was counted
while it still worked and timed when it no longer did. And one that looks up everything that it has
seen once did not work at all: inputs that it never met show it.
"""

from __future__ import annotations

import re

import torch

from bench.measure.blind import without_targets
from bench.measure.inputs import Inputs
from bench.measure.subject import Metrics, Subject
from bench.meters.flops.counter import count_samples
from bench.routing import SHORTFALL

MOST, FEWEST = 2, 8  # times: how far equally drawn samples may differ; samples that tell
OF_QUALITY = re.compile(r"infer/(dense_)?quality")


def recounted(subject: Subject, inputs: Inputs, metrics: Metrics) -> str | None:
    """Why `metrics` of inference count for nothing: FLOPs that changed; None where they did not.

    Call it last, at the operating point whose metrics these are.
    """
    for size in sorted({1, max(inputs.by_size)}):
        before = metrics[f"infer/flops_per_sample_b{size}"].value
        with torch.inference_mode():
            total = count_samples(subject.model.eval(), inputs.by_size[size]).total
        again = total / inputs.num_issued(size)
        if before is not None and abs(again - before) > SHORTFALL * max(before, again):
            return (
                f"the same inputs cost {before:,.0f} FLOPs a sample in batches of {size} before "
                f"they were timed and {again:,.0f} afterwards: the model keeps something between "
                "calls"
            )
    return _remembered(subject, metrics, max(inputs.by_size))


def _remembered(subject: Subject, metrics: Metrics, size: int) -> str | None:
    """Why the model remembers what it met; None where a batch of new samples costs the same."""
    # A control in hindsight searches when it first meets a sample: the next pass costs less.
    if size < FEWEST or subject.method.flags.reads_targets:
        return None
    known = metrics[f"infer/flops_per_sample_b{size}"].value
    batch = next(iter(subject.task.batches("calibration", size))).to(subject.device)
    with torch.inference_mode():
        new = count_samples(subject.model, [without_targets(batch)]).total / len(batch)
    if known is None or known * MOST >= new:
        return None
    return (
        f"in batches of {size} inputs that the model has met cost {known:,.0f} FLOPs a sample, new "
        f"ones {new:,.0f}: something remembers them"
    )


def voided(metrics: Metrics, reason: str | None) -> Metrics:
    """The metrics, those of inference but for quality invalid by `reason` if there is one."""
    if reason is None:
        return metrics
    return {
        key: metric.model_copy(update={"valid": False, "reason": metric.reason or reason})
        if key.startswith("infer/") and not OF_QUALITY.match(key)
        else metric
        for key, metric in metrics.items()
    }
