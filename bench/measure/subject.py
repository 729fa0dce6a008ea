"""What is measured: a trained model, its method and task, and how carefully."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from bench.config import MeasureConfig
from bench.measure.stated_share import Forced
from bench.plugins.hooks import ResolvedMethod
from bench.records.record import Metric
from bench.routing import Observation
from bench.types import Point, Task

Metrics = dict[str, Metric]
OnPhase = Callable[[str, float], None]  # name of the phase, share of it that is done


@dataclass
class Subject:
    """A trained model, what it is compared with and how carefully."""

    model: nn.Module
    method: ResolvedMethod
    task: Task
    device: torch.device
    config: MeasureConfig
    make_baseline: Callable[[], nn.Module]  # the dense model, trained
    is_dense: bool
    chosen: Sequence[Point] = ()  # of the method's points, those to measure; (): all
    forced: Forced | None = None  # what measure.force_share changed
    train_batch_size: int | None = None  # of the recipe; None: not trained by a recipe

    def points(self) -> list[Point]:
        """The operating points, the default first; one empty point where there is no setting."""
        if self.chosen:
            return [*self.chosen]
        points = self.method.hooks.points  # an empty list counts as no hook
        return (points() if points is not None else []) or [{}]

    @contextmanager
    def at(self, point: Point) -> Iterator[nn.Module]:
        """The model set to `point`; back at the default afterwards."""
        set_point = self.method.hooks.set_point
        if not point or set_point is None:
            yield self.model
            return
        set_point(self.model, point)
        try:
            yield self.model
        finally:
            # Later meters rely on the default point, also after one that failed.
            set_point(self.model, self.points()[0])

    def declared_flops(self, seen: Observation) -> float:
        """FLOPs that the method declares for the decisions in `seen`."""
        own = self.method.hooks.declared_flops
        return float(own(self.model, seen)) if own is not None else seen.declared_flops()
