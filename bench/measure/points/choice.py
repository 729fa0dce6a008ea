"""Which operating points are measured: the one of equal quality first, then others over the range.

A user asks what a method saves at the quality that is needed. So on the half of the calibration
data that nothing was fitted to, points are tried from the dearest to the cheapest by executed
FLOPs, and the last one before the estimated loss exceeds half of the tolerance is chosen. Half,
because an estimate at the tolerance itself would exceed it every second time. Dearer points that
lose more are passed over: a mixture trained with two experts per token may be worse with four. The
test set has no part in it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from bench.measure.flops.cost import count_inference
from bench.measure.points.halves import CHOOSE, half
from bench.measure.quality.judge import EVALUATION_BATCH, evaluate
from bench.measure.subject import Subject
from bench.statistics.verdict import tolerance_of
from bench.types import Point, Quality

MAX_TRIED = 24  # points: each is evaluated on thousands of samples
SAFETY = 0.5  # of the tolerance: what an estimated loss may take of it
NO_QUALITY = "dense has no quality to keep"
Kind = Literal["equal quality", "nearest", "default"]


@dataclass(frozen=True)
class Candidate:
    """One operating point: executed FLOPs per sample in a batch, and the estimated loss."""

    point: Point
    flops: float
    loss: float | None = None  # of quality against dense, positive is worse; None: not tried

    def entry(self) -> dict[str, Any]:
        """As the record holds it."""
        loss = self.loss if self.loss is not None and math.isfinite(self.loss) else None
        return {"settings": dict(self.point), "flops": self.flops, "loss": loss}


@dataclass(frozen=True)
class Choice:
    """The points to measure, the chosen one first.

    `kind`: "equal quality"; "nearest" where no point keeps quality and the first loses least;
    "default" where there was nothing to choose by, for `reason`.
    """

    points: list[Point]
    kind: Kind
    tolerance: float | None = None
    reason: str = ""
    candidates: Sequence[Candidate] = field(default_factory=list)

    def entry(self) -> dict[str, Any]:
        """As the record holds it."""
        return {
            "kind": self.kind,
            "tolerance": self.tolerance,
            "reason": self.reason,
            "chosen": dict(self.points[0]),
            "candidates": [each.entry() for each in self.candidates],
        }


def choose_points(
    subject: Subject, dense: Quality, on_tried: Callable[[float], None] = lambda share: None
) -> Choice:
    """Choose among the method's points; `dense` is the dense model's quality on the same half.

    `on_tried(share)` gets the share of the points that have been tried.
    """
    points = subject.points()
    limit = subject.config.num_points
    tolerance = tolerance_of(dense.unit, dense.value, subject.config.tolerance)
    if subject.forced is not None and subject.forced.any:
        return Choice(points[:1], "default", tolerance, subject.forced.note)
    if not math.isfinite(dense.value):
        return Choice(points[:limit], "default", tolerance, dense.reason or NO_QUALITY)
    found = candidates(subject)
    tried: list[Candidate] = []
    for each in found:
        tried.append(replace(each, loss=loss_of(_quality(subject, each.point), dense)))
        on_tried(len(tried) / len(found))
        kept = [not _too_much(one, tolerance) for one in tried[-2:]]
        if kept == [True, False]:
            break  # the cheaper ones are not tried
    kind, chosen = pick(tried, tolerance)
    rest = [each for each in found if each.point != chosen.point]
    if len(rest) >= limit:  # most often they decide as the chosen one does
        rest = [each for each in rest if each.flops != chosen.flops]
    others = spread(rest, limit - 1)
    return Choice([chosen.point, *others], kind, tolerance, "", tried + found[len(tried) :])


def pick(tried: Sequence[Candidate], tolerance: float) -> tuple[Kind, Candidate]:
    """The chosen one among `tried`, which are ordered from the dearest to the cheapest."""
    best: Candidate | None = None
    for each in tried:
        if not _too_much(each, tolerance):
            # Of points that cost the same, the one that the method names first.
            best = each if best is None or each.flops < best.flops else best
        elif best is not None:
            break
    if best is not None:
        return "equal quality", best
    # NaN is the largest loss of all.
    return "nearest", min(
        tried, key=lambda each: math.inf if math.isnan(_loss(each)) else _loss(each)
    )


def candidates(subject: Subject) -> list[Candidate]:
    """The points from the dearest to the cheapest; of more than MAX_TRIED a spread over FLOPs."""
    batch = next(iter(half(subject.task, CHOOSE, EVALUATION_BATCH))).to(subject.device)
    found = []
    for point in subject.points():
        with subject.at(point) as model:
            found.append(Candidate(point, count_inference(model, [batch]).total / len(batch)))
    kept = spread(found, MAX_TRIED)
    return [each for each in by_flops(found) if each.point in kept]


def by_flops(found: Sequence[Candidate]) -> list[Candidate]:
    """From the dearest to the cheapest; those with equal FLOPs in the method's order."""
    return sorted(found, key=lambda each: -each.flops)


def spread(found: Sequence[Candidate], num_points: int) -> list[Point]:
    """At most `num_points` of them, evenly over their FLOPs, the cheapest included.

    Where there are more, of those with equal FLOPs the first: most often they decide alike.
    """
    if len(found) <= num_points:
        return [each.point for each in found]
    left = by_flops([*{each.flops: each for each in reversed(found)}.values()])
    if len(left) <= num_points:
        return [each.point for each in left]
    low, high = left[-1].flops, left[0].flops
    chosen: list[Candidate] = []
    # From the cheapest: it is always one of them, and the dearest only where there are two.
    for step in range(num_points):
        wanted = low + (high - low) * step / max(1, num_points - 1)
        nearest = min(left, key=lambda each: abs(each.flops - wanted))
        left.remove(nearest)
        chosen.append(nearest)
    return [each.point for each in by_flops(chosen)]


def loss_of(quality: Quality, dense: Quality) -> float:
    """How much worse than `dense`, in its unit; NaN where one of them is."""
    difference = quality.value - dense.value
    return -difference if dense.direction == "higher" else difference


def _quality(subject: Subject, point: Point) -> Quality:
    return evaluate(subject, point, batches=half(subject.task, CHOOSE, EVALUATION_BATCH))


def _loss(candidate: Candidate) -> float:
    return math.inf if candidate.loss is None else candidate.loss


def _too_much(candidate: Candidate, tolerance: float) -> bool:
    return not _loss(candidate) <= SAFETY * tolerance  # NaN is too much
