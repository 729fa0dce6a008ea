"""How well the model does, on the whole test split, at one operating point."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from bench.measure.blind import Blind, model_to_evaluate
from bench.measure.findings import Part
from bench.measure.judged import Judged, Overheard
from bench.measure.quality.finite import Answers
from bench.measure.subject import Metrics, Subject
from bench.records.catalogue import QUALITY, quality_key
from bench.records.record import Metric, QualityLabel, missing
from bench.types import Batch, Output, Point, Quality

EVALUATION_BATCH = 64
CHANCE_MARGIN = 0.1  # relative: how much better than guessing a model must be


def measure_quality(
    subject: Subject,
    point: Point,
    judged: Judged | None = None,
    compare: Callable[[Quality], Metrics] = lambda quality: {},
) -> Part:
    """Quality at `point`; raw: the score of every sample, where the task has one.

    `judged` keeps the first batch that the task gives to the model; `compare` gives the metrics
    that need the dense model's scores.
    """
    quality = evaluate(subject, point, judged)
    raw = {}
    if quality.per_sample is not None:
        raw["quality"] = np.asarray(quality.per_sample)  # [N] in data order, to compare pairwise
    return Part(
        quality_metrics(quality) | compare(quality),
        raw,
        notes=quality_notes(quality),
        quality=quality_label(quality),
    )


def evaluate(
    subject: Subject,
    point: Point,
    judged: Judged | None = None,
    batches: Iterable[Batch] | None = None,
) -> Quality:
    """The task's own evaluation at `point` with real skipping, on `batches` or the test split.

    The model gets its inputs only: see `blind`.
    """
    listeners = [judged.hear] if judged else []
    with subject.at(point) as model:
        model.eval()  # `Blind` hands everything but the call on to the model
        return _evaluate(subject, model_to_evaluate(subject), batches, listeners)


def evaluate_dense(
    subject: Subject, dense: nn.Module, batches: Iterable[Batch] | None = None
) -> Quality:
    """The same of the dense model that the subject is compared with."""
    return _evaluate(subject, Blind(dense.eval()), batches)


def _evaluate(
    subject: Subject,
    model: Any,
    batches: Iterable[Batch] | None,
    listeners: Sequence[Callable[[Batch, Output], None]] = (),
) -> Quality:
    found = subject.task.batches("test", EVALUATION_BATCH) if batches is None else batches
    answers = Answers()
    called = Overheard(model, answers.hear, *listeners)
    with torch.inference_mode():
        # One batch on the device at a time: a test split need not fit into its memory.
        quality = subject.task.evaluate(called, (batch.to(subject.device) for batch in found))
    return answers.judge(quality)


def quality_metric(quality: Quality) -> Metric:
    """The value with its unit; missing where the evaluation is not a finite number."""
    return _score(quality, quality.value, quality.unit)


def quality_metrics(quality: Quality) -> Metrics:
    """`infer/quality`, and `infer/quality_<name>` of every further score."""
    further = {
        quality_key(name): _score(quality, value, quality.more_units.get(name, quality.unit))
        for name, value in quality.more.items()
    }
    return {QUALITY.at(): quality_metric(quality), **further}


def _score(quality: Quality, value: float, unit: str) -> Metric:
    # Built without the catalogue: a score's unit is the task's.
    if quality.reason:
        return missing(unit, quality.reason)
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
    if quality.reason or quality.chance is None or _clearly_better(quality):
        return []
    return [f"quality {quality.value:.4g} {quality.unit} is at chance level ({quality.chance:.4g})"]


def _clearly_better(quality: Quality) -> bool:
    """Better than guessing by more than a tenth of what guessing reaches."""
    assert quality.chance is not None
    margin = CHANCE_MARGIN * abs(quality.chance)
    signed = margin if quality.direction == "higher" else -margin
    return quality.beats(quality.chance + signed)
