"""A method on one tiny task: built, trained a few steps and calibrated, as a trial would do it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from bench import routing
from bench.check.tiny_tasks import Tiny
from bench.plugins.hooks import ResolvedMethod, resolve
from bench.routing import Observation
from bench.types import Batch, Point

NUM_STEPS = 4  # enough for gates to tell inputs apart; random targets teach nothing more
LEARNING_RATE = 0.02  # large, so that a few steps move every weight visibly
MAX_POINTS = 4  # operating points that are tried: a range has a dozen
FEW, CROWD = 6, 64  # samples in a batch; methods are measured in batches as large as the second


@dataclass
class Candidate:
    """`method` (an instance) on the task `tiny` with a backbone that supports both."""

    name: str
    method: Any
    tiny: Tiny
    backbone: Any
    convolutional: str = ""  # the backbone's name, if it works on feature maps
    tried: type | None = None  # the class that is examined, if it is not the method's
    plugin_formula_ops: set[str] = field(default_factory=set)  # FLOPs by the plugin's formula
    resolved: ResolvedMethod = field(init=False)
    _points: list[Point] = field(init=False)

    def __post_init__(self) -> None:
        self.resolved = resolve(self.method)
        points = self.resolved.hooks.points
        self._points = points() if points is not None else []

    @property
    def cls(self) -> type:
        """The class whose lines a finding names."""
        return self.tried or type(self.method)

    @property
    def task(self) -> str:
        """The tiny task, and the backbone where that is not the usual one."""
        on = f" on {self.convolutional}" if self.convolutional else ""
        return self.tiny.spec.name + on

    @property
    def is_batch_invariant(self) -> bool:
        """Whether a sample's result is declared not to depend on its batch."""
        return self.resolved.flags.batch_invariant

    @property
    def trains(self) -> bool:
        """Whether the method takes training steps at all."""
        return self.resolved.flags.train_share > 0

    @cached_property
    def model(self) -> nn.Module:
        """The model that contracts share, in inference mode; they leave it as they found it."""
        # Made once per task: training it takes as long as most contracts.
        return self.make()

    def make(self) -> nn.Module:
        """A new model: trained for a few steps, calibrated, in inference mode."""
        model = self.make_untrained()
        if self.trains:
            self.train(model)
        model.eval()  # before calibration, as in a trial: thresholds belong to the inference path
        if self.resolved.hooks.calibrate is not None:
            with torch.no_grad():
                self.resolved.hooks.calibrate(model, [self.tiny.batch(16, k) for k in range(3)])
        return model

    def make_untrained(self, seed: int = 0) -> nn.Module:
        """A new model as `convert` or `build` leaves it."""
        torch.manual_seed(seed)
        hooks = self.resolved.hooks
        built: nn.Module
        if hooks.convert is None:
            built = hooks.build(self.tiny.spec, self.backbone)
        else:
            built = hooks.convert(self.dense(), [self.tiny.batch(4)])
        _materialise(built, self.tiny.batch(2))
        return built

    def dense(self) -> nn.Module:
        """The dense model that a converting method starts from, trained for a few steps."""
        dense = copy.deepcopy(self._dense)
        torch.manual_seed(0)  # what convert draws is the same after the first call
        return dense

    @cached_property
    def _dense(self) -> nn.Module:
        torch.manual_seed(0)
        dense: nn.Module = self.backbone.build(self.tiny.spec)
        _descend(dense.parameters(), lambda batch, _: self._plain_loss(dense, batch), self.tiny)
        return dense.eval()

    def train(self, model: nn.Module, num_steps: int = NUM_STEPS) -> None:
        """Some optimiser steps with the method's own loss and hooks; ends in training mode."""
        model.train()
        hooks = self.resolved.hooks
        # As in bench.trial.train: the method's own groups, else everything that may learn.
        groups = (
            hooks.param_groups(model, LEARNING_RATE)
            if hooks.param_groups is not None
            else [p for p in model.parameters() if p.requires_grad]
        )
        after = hooks.after_step
        _descend(
            groups,
            lambda batch, progress: self.loss(model, batch, progress),
            self.tiny,
            num_steps,
            None if after is None else lambda progress: after(model, progress),
        )

    def loss(self, model: nn.Module, batch: Batch, progress: float = 0.5) -> Tensor:
        """The training loss, as the harness computes it."""
        if self.resolved.hooks.loss is not None:
            loss: Tensor = self.resolved.hooks.loss(model, batch, self.tiny.criterion, progress)
            return loss
        return self._plain_loss(model, batch)

    def _plain_loss(self, model: nn.Module, batch: Batch) -> Tensor:
        output = model(batch)
        return self.tiny.criterion(output, batch) + output.aux_loss

    def at_points(self) -> Iterator[tuple[Point, nn.Module]]:
        """The shared model at each of `tried_points` in turn; back at the default afterwards."""
        # Contracts run under every point; a generator restores the default also after an error.
        try:
            for point in tried_points(self._points) or [{}]:
                if point:
                    self._set(point)
                yield point, self.model
        finally:
            self.set_default()

    def set_default(self) -> None:
        """Set the shared model, if it is made, to its default operating point."""
        if self._points and "model" in vars(self):  # cached_property: not made, nothing to set
            self._set(self._points[0])

    def _set(self, point: Point) -> None:
        assert self.resolved.hooks.set_point is not None
        self.resolved.hooks.set_point(self.model, point)

    def declared_flops(self, model: nn.Module, seen: Observation) -> float:
        """FLOPs that the method declares for the decisions in `seen`."""
        own = self.resolved.hooks.declared_flops
        return float(own(model, seen)) if own is not None else seen.declared_flops()


def tried_points(points: Sequence[Point]) -> list[Point]:
    """The default and, of more than MAX_POINTS, others in equal steps, the last one included."""
    if len(points) <= MAX_POINTS:
        return [*points]
    step = (len(points) - 1) / (MAX_POINTS - 1)
    return [points[round(number * step)] for number in range(MAX_POINTS)]


def _descend(
    groups: Any,
    loss: Callable[[Batch, float], Tensor],
    tiny: Tiny,
    num_steps: int = NUM_STEPS,
    after: Callable[[float], None] | None = None,
) -> None:
    optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE)
    for step in range(num_steps):
        optimizer.zero_grad()
        # Seeds from 100 on: contracts try other data than was trained on.
        loss(tiny.batch(8, 100 + step), step / num_steps).backward()
        optimizer.step()
        if after is not None:
            after((step + 1) / num_steps)


def _materialise(model: nn.Module, batch: Batch) -> None:
    """Give lazy layers (`nn.LazyLinear`) their shapes, which else the first pass would do.

    A trial counts one pass before anything reads the weights. Gates are forced, so that layers
    that would be skipped see an input too.
    """
    was_training = model.training
    for how in ("open", "closed", "random"):
        if not any(map(is_lazy, (*model.parameters(), *model.buffers()))):
            return
        with torch.no_grad(), routing.force(how):
            model.eval()(batch)
        model.train(was_training)
