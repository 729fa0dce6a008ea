"""Do the same inputs still cost what they cost before thousands of timed calls?

A model that looks up what it has often seen, or that gives up after so many calls, was counted
while it still worked and timed when it no longer did. One that looks up everything that it has seen
once did not work at all: inputs that it never met show it.
"""

from __future__ import annotations

import torch

from bench.measure.blind import without_targets
from bench.measure.inputs import Inputs
from bench.measure.subject import Metrics, Subject
from bench.meters.flops.counter import count_samples
from bench.meters.flops.novel import make_novel
from bench.records.catalogue import FLOPS_BATCHED
from bench.routing import SHORTFALL

MAX_COST_RATIO = 2  # how far the mean costs of two batches of the same data may differ by chance
MIN_SAMPLES = 8  # in a batch: the costs of fewer vary too much for that
# Also of the dense model, under every condition: evaluated in calls of its own, not in timed ones.
OF_QUALITY = ("infer/quality", "infer/dense_quality")


def why_cost_changed(subject: Subject, inputs: Inputs, metrics: Metrics) -> str | None:
    """Why `metrics` of inference are invalid: FLOPs that changed; None where they did not.

    Call it last, at the operating point whose metrics these are.
    """
    for size in sorted({1, inputs.largest}):
        before = metrics[FLOPS_BATCHED.at(size)].value
        with torch.inference_mode():
            total = count_samples(subject.model.eval(), inputs.by_size[size]).total
        again = total / inputs.num_issued(size)
        if before is not None and abs(again - before) > SHORTFALL * max(before, again):
            return (
                f"the same inputs cost {before:,.0f} FLOPs a sample in batches of {size} before "
                f"they were timed and {again:,.0f} afterwards: the model keeps something between "
                "calls"
            )
    return _why_remembered(subject, metrics, inputs.largest)


def _why_remembered(subject: Subject, metrics: Metrics, size: int) -> str | None:
    """Why the model remembers what it met; None where a batch of new samples costs the same."""
    # A control in hindsight searches when it first meets a sample: the next pass costs less.
    if size < MIN_SAMPLES or subject.method.flags.reads_targets:
        return None
    known = metrics[FLOPS_BATCHED.at(size)].value
    # Mixtures of calibration samples: the samples themselves were given to `calibrate`.
    given = next(iter(subject.task.batches("calibration", size))).to(subject.device)
    batch = make_novel(given)
    with torch.inference_mode():
        new = count_samples(subject.model, [without_targets(batch)]).total / len(batch)
    if known is None or known * MAX_COST_RATIO >= new:
        return None
    return (
        f"in batches of {size} inputs that the model has met cost {known:,.0f} FLOPs a sample, new "
        f"ones {new:,.0f}: something remembers them"
    )


def invalidate(metrics: Metrics, reason: str | None) -> Metrics:
    """The metrics, those of inference but for quality invalid by `reason` if there is one."""
    if reason is None:
        return metrics
    return {
        key: metric.model_copy(update={"valid": False, "reason": metric.reason or reason})
        if key.startswith("infer/") and not key.startswith(OF_QUALITY)
        else metric
        for key, metric in metrics.items()
    }
