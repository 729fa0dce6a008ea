"""How well the model does, on the whole test split, at one operating point."""

from __future__ import annotations

import torch

from bench.measure.subject import Subject
from bench.record import Metric, QualityLabel, missing
from bench.types import Point, Quality

EVALUATION_BATCH = 64


def evaluate(subject: Subject, point: Point) -> Quality:
    """The task's own evaluation at `point`, in data order, with real skipping."""
    batches = (b.to(subject.device) for b in subject.task.batches("test", EVALUATION_BATCH))
    with subject.at(point) as model, torch.inference_mode():
        model.eval()
        return subject.task.evaluate(model, batches)


def quality_metric(quality: Quality) -> Metric:
    """The value with its unit; missing where the evaluation is not a finite number."""
    if not torch.isfinite(torch.tensor(quality.value)):
        return missing(quality.unit, f"the evaluation gave {quality.value}")
    return Metric(value=quality.value, unit=quality.unit)


def quality_label(quality: Quality) -> QualityLabel:
    """How to read the value."""
    return QualityLabel(
        direction=quality.direction, chance=quality.chance, references=dict(quality.references)
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
