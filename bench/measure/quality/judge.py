"""How well the model does, on the whole test split, at one operating point."""

from __future__ import annotations

import math

import torch

from bench.measure.blind import judged
from bench.measure.subject import Metrics, Subject
from bench.records.record import Metric, QualityLabel, missing, quality_key
from bench.types import Point, Quality

EVALUATION_BATCH = 64


def evaluate(subject: Subject, point: Point) -> Quality:
    """The task's own evaluation at `point`, in data order, with real skipping.

    The model gets its inputs only: see `blind`.
    """
    batches = (b.to(subject.device) for b in subject.task.batches("test", EVALUATION_BATCH))
    with subject.at(point) as model, torch.inference_mode():
        model.eval()
        return subject.task.evaluate(judged(subject), batches)


def quality_metric(quality: Quality) -> Metric:
    """The value with its unit; missing where the evaluation is not a finite number."""
    return _score(quality.value, quality.unit)


def quality_metrics(quality: Quality) -> Metrics:
    """`infer/quality`, and `infer/quality_<name>` of every further score."""
    further = {
        quality_key(name): _score(value, quality.more_units.get(name, quality.unit))
        for name, value in quality.more.items()
    }
    return {"infer/quality": quality_metric(quality), **further}


def _score(value: float, unit: str) -> Metric:
    if not math.isfinite(value):
        return missing(unit, f"the evaluation gave {value}")
    return Metric(value=value, unit=unit)


def quality_label(quality: Quality) -> QualityLabel:
    """How to read the value."""
    return QualityLabel(
        direction=quality.direction,
        chance=quality.chance,
        references=dict(quality.references),
        more=list(quality.more),
    )


def quality_notes(quality: Quality) -> list[str]:
    """A warning when the model does no better than guessing."""
    if quality.chance is None or _clearly_better(quality):
        return []
    return [f"quality {quality.value:.4g} {quality.unit} is at chance level ({quality.chance:.4g})"]


def _clearly_better(quality: Quality) -> bool:
    """Better than guessing by more than a tenth of what guessing reaches."""
    assert quality.chance is not None
    margin = 0.1 * abs(quality.chance)
    signed = margin if quality.direction == "higher" else -margin
    return quality.beats(quality.chance + signed)
