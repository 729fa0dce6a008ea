"""The quality of a point minus that of dense on the test set, paired sample by sample."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from bench.measure.metrics import missing_metric
from bench.measure.points.halves import CHOOSE, half, sources
from bench.measure.quality.judge import EVALUATION_BATCH, evaluate_dense
from bench.measure.subject import Metrics, Subject
from bench.records.catalogue import QUALITY_VS_DENSE
from bench.records.record import Metric
from bench.statistics.clusters import clustered_mean
from bench.types import Quality


@dataclass(frozen=True)
class DenseScores:
    """The dense model's quality where operating points are chosen, and on the test split."""

    choosing: Quality
    test: Quality
    sources: np.ndarray | None  # [N], the original of each test sample

    def compare(self, quality: Quality) -> Metrics:
        """`infer/quality_vs_dense` of a quality on the test split."""
        return {QUALITY_VS_DENSE.at(): quality_vs_dense(quality, self.test, self.sources)}


def score_dense(subject: Subject) -> DenseScores:
    """Evaluate the dense model, which is gone afterwards: memory is measured without it."""
    dense = subject.make_baseline()
    choosing = evaluate_dense(subject, dense, half(subject.task, CHOOSE, EVALUATION_BATCH))
    return DenseScores(choosing, evaluate_dense(subject, dense), sources(subject.task, "test"))


def quality_vs_dense(quality: Quality, dense: Quality, sources: np.ndarray | None) -> Metric:
    """Quality minus dense's with its 95 % interval over the originals of the test samples.

    `sources` [N] names the original of each sample; None where each is one of its own. Without
    scores per sample the difference has no interval.
    """
    value = quality.value - dense.value
    if not math.isfinite(value):
        why = quality.reason or dense.reason or "the evaluation of the method or of dense failed"
        return missing_metric(QUALITY_VS_DENSE, why)
    scores = [each.per_sample for each in (quality, dense)]
    if scores[0] is None or scores[1] is None or len(scores[0]) != len(scores[1]):
        return Metric(value=value, unit=quality.unit, reason="no scores per sample: no interval")
    own, others = (np.asarray(each, dtype=np.float64) for each in scores)
    largest = float(max(own.max(), others.max()) - min(own.min(), others.min()))
    found = clustered_mean(own - others, sources, largest=largest)
    # The task's own value, which need not be the mean over samples; the interval moves with it.
    shift = value - (found.value or 0.0)
    low, high = (None if bound is None else bound + shift for bound in (found.low, found.high))
    return Metric(value=value, unit=quality.unit, low=low, high=high, reason=found.reason)
