"""Methods that cheat where a single batch, a single call or a single operating point looks fine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from condbench_cheats import GatedFFN, Honest, _around, _with, _Wrapped
from torch import Tensor, nn

from bench import routing
from bench.routing import TOKENS, decide
from bench.types import Backbone, Batch, Output, Point, TaskSpec


class _Masking(GatedFFN):
    def skipping(self, x: Tensor, run: Tensor) -> Tensor:
        return run[..., None] * self.ffn(x)


class FreeMasking(_Masking):
    """Computes everything, multiplies by zero, and declares that an element costs nothing."""

    def __init__(self, dim: int, hidden: int, name: str) -> None:
        super().__init__(dim, hidden, name)
        self.cost = 0.0


@dataclass
class HookSaysZero(Honest):
    """Masks; its declared_flops says 0."""

    def layer(self) -> Any:
        return _Masking

    def declared_flops(self, model: nn.Module, seen: routing.Observation) -> float:
        return 0.0


class AlsoDense(GatedFFN):
    """Computes the dense layer on every token, always, and skips for show."""

    def skipping(self, x: Tensor, run: Tensor) -> Tensor:
        super().skipping(x, run)
        return run[..., None] * self.ffn(x)


class MasksInCrowds(GatedFFN):
    """Skips up to eight samples, masks above."""

    def skipping(self, x: Tensor, run: Tensor) -> Tensor:
        return super().skipping(x, run) if len(x) <= 8 else run[..., None] * self.ffn(x)


class MultipliesAndSums(GatedFFN):
    """The dense layer by broadcast multiplication and sum, which are no products."""

    def skipping(self, x: Tensor, run: Tensor) -> Tensor:
        if not run.any():
            return torch.zeros_like(x)
        super().skipping(x, run)
        first, _, last = self.ffn
        hidden = F.gelu((x.flatten(0, 1)[:, None] * first.weight).sum(-1) + first.bias)
        y = (hidden[:, None] * last.weight).sum(-1) + last.bias
        return run[..., None] * y.view_as(x)


class OutsideRegion(GatedFFN):
    """Its gate decides outside any region and never gets a gradient."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            run = self.decide(self.gate(x)[..., 0].sigmoid())
        return run[..., None] * self.ffn(x) if self.training else self.skipping(x, run)


class ComputesOutside(GatedFFN):
    """Announces its decision in the router's region, and computes it elsewhere without gradient."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            open_ = self.gate(x)[..., 0].sigmoid()
        with routing.region("router"):
            run = self.decide(open_)
        return run[..., None] * self.ffn(x) if self.training else self.skipping(x, run)


@dataclass
class NotInOptimizer(Honest):
    """Its gate gets gradients and no optimiser steps."""

    def param_groups(self, model: nn.Module, lr: float) -> list[dict[str, Any]]:
        named = model.named_parameters()
        return [{"params": [p for name, p in named if ".gate." not in name], "lr": lr}]


class LeakyEarly(GatedFFN):
    """Lets closed tokens through in training, in every layer but the last."""

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return y + 1e-6 * self.ffn(x) if self.training and self.name != "gate3" else y


FreeMaskingMethod = _with(FreeMasking)


@torch.library.custom_op("condbench_cheats::half", mutates_args=())
def _half(x: Tensor, weight: Tensor, run: Tensor) -> Tensor:
    return (x @ weight.T) * run[..., None]


@_half.register_fake
def _(x: Tensor, weight: Tensor, run: Tensor) -> Tensor:
    return x.new_empty(*x.shape[:-1], len(weight))


class LyingOp(GatedFFN):
    """Computes every token in an operation of its own, whose formula counts those that run."""

    def skipping(self, x: Tensor, run: Tensor) -> Tensor:
        if torch.is_grad_enabled() or torch.is_autocast_enabled("cpu") or not run.any():
            return super().skipping(x, run)
        first, middle, last = self.ffn
        hidden = _half(x, first.weight, run) + first.bias
        return run[..., None] * (_half(middle(hidden), last.weight, run) + last.bias)


routing.register_formula(
    _half, lambda args, kwargs, output: 2 * args[1].numel() * int(args[2].sum())
)

LyingOpMethod = _with(LyingOp)
AlsoDenseMethod = _with(AlsoDense)
MasksInCrowdsMethod = _with(MasksInCrowds)
MultipliesAndSumsMethod = _with(MultipliesAndSums)
OutsideRegionMethod = _with(OutsideRegion)
ComputesOutsideMethod = _with(ComputesOutside)
LeakyEarlyMethod = _with(LeakyEarly)


class OpensFirst(GatedFFN):
    """Always runs the first token of a pass, which with a cache is every token."""

    def decide(self, open_: Tensor) -> Tensor:
        run = open_ > 0.5
        run[:, 0] = True
        return decide(self.name, axes=TOKENS, probabilities=open_, run=run, cost=self.cost)


OpensFirstMethod = _with(OpensFirst)


class _FirstDecides(GatedFFN):
    def decide(self, open_: Tensor) -> Tensor:
        run = (open_[:1] > 0.5).expand_as(open_)
        return decide(self.name, axes=TOKENS, probabilities=open_, run=run, cost=self.cost)


@dataclass
class DeclaredFirst(Honest):
    """All do what the first sample wants, and that is declared to depend on the batch."""

    batch_invariant = False

    def layer(self) -> Any:
        return _FirstDecides


class _AtPoint(GatedFFN):
    at = 0.5

    def decide(self, open_: Tensor) -> Tensor:
        asked = open_ if self.at == 0.5 else open_[:1].expand_as(open_)
        return decide(
            self.name, axes=TOKENS, probabilities=open_, run=asked > self.at, cost=self.cost
        )


@dataclass
class FirstAtOtherPoint(Honest):
    """Honest at its default point; at the other one the first sample decides."""

    def layer(self) -> Any:
        return _AtPoint

    def points(self) -> list[Point]:
        return [{"at": 0.5}, {"at": 0.51}]

    def set_point(self, model: nn.Module, point: Point) -> None:
        for module in model.modules():
            if isinstance(module, _AtPoint):
                module.at = float(point["at"])


class _EmptyAtPoint(_AtPoint):
    def skipping(self, x: Tensor, run: Tensor) -> Tensor:
        if run.any() or self.at == 0.5:
            return super().skipping(x, run)
        return torch.zeros_like(x) + self.ffn(x[run]).sum()


@dataclass
class EmptyAtOtherPoint(FirstAtOtherPoint):
    """Calls its layer on nothing at the other point only."""

    def layer(self) -> Any:
        return _EmptyAtPoint


class _CachesCrowds(_Wrapped):
    """Looks batches of more than eight samples up."""

    def __init__(self, trunk: nn.Module) -> None:
        super().__init__(trunk)
        self.answers: dict[bytes, Tensor] = {}

    def forward(self, batch: Batch) -> Output:
        if self.training or len(batch) <= 8 or routing.is_forced():
            return self.trunk(batch)
        key = batch.inputs.numpy().tobytes()
        if key not in self.answers:
            self.answers[key] = self.trunk(batch).logits
        return Output(self.answers[key])


class _RemembersLater(_Wrapped):
    """Looks up what it has seen more than eight times, in whatever order."""

    def __init__(self, trunk: nn.Module) -> None:
        super().__init__(trunk)
        self.answers: dict[Any, Tensor] = {}
        self.times: dict[Any, int] = {}

    def forward(self, batch: Batch) -> Output:
        if self.training or routing.is_forced():
            return self.trunk(batch)
        numbers = [t.double() for t in (batch.inputs, batch.decoder_inputs) if t is not None]
        key = tuple(round(n.square().sum().item(), 6) for n in numbers), len(batch)
        self.times[key] = self.times.get(key, 0) + 1
        if self.times[key] <= 8:
            self.answers[key] = self.trunk(batch).logits
        return Output(self.answers[key])


class _PeeksInCrowds(_Wrapped):
    """Adds the target to the logits of more than eight samples."""

    def forward(self, batch: Batch) -> Output:
        output = self.trunk(batch)
        if self.training or len(batch) <= 8:
            return output
        hint = F.one_hot(batch.targets, output.logits.shape[-1])
        return output._replace(logits=output.logits + 100 * hint)


CachesCrowdsMethod = _around(_CachesCrowds)
RemembersLaterMethod = _around(_RemembersLater)


@dataclass
class PeeksDeclared:
    """Peeks in crowds, and declares that a result depends on its batch."""

    batch_invariant = False

    def build(self, spec: TaskSpec, backbone: Backbone) -> nn.Module:
        return _PeeksInCrowds(backbone.build(spec))
