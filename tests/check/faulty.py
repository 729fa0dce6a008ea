"""Methods with a fault that is no cheating: NaN, typing errors, lazy layers, misspelt names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bench.types import Backbone, Batch, Output, Point, TaskSpec


@dataclass
class Dense:
    """The backbone as it is."""

    def build(self, spec: TaskSpec, backbone: Backbone) -> nn.Module:
        model: nn.Module = backbone.build(spec)
        return model


class LazyFFN(nn.Module):
    """Layers that get their width from the first input; the second runs where the gate is open."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.up, self.down = nn.LazyLinear(hidden), nn.LazyLinear(dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.up(x).relu())


@dataclass
class Lazy:
    """Feed-forward layers whose shapes are unknown until the first pass."""

    def build(self, spec: TaskSpec, backbone: Backbone) -> nn.Module:
        model: nn.Module = backbone.build(spec, ffn=LazyFFN)
        return model


class _Around(nn.Module):
    """A model that changes the answer of the trunk."""

    def __init__(self, trunk: nn.Module) -> None:
        super().__init__()
        self.trunk = trunk

    def forward(self, batch: Batch) -> Output:
        output: Output = self.trunk(batch)
        return output._replace(logits=self.changed(output.logits, batch))

    def changed(self, logits: Tensor, batch: Batch) -> Tensor:
        raise NotImplementedError


class _SomeNaN(_Around):
    def changed(self, logits: Tensor, batch: Batch) -> Tensor:
        if self.training or len(batch) < 2:
            return logits
        first = torch.arange(len(logits)) < 2
        return logits.masked_fill(first.view(-1, *[1] * (logits.dim() - 1)), torch.nan)


class _InfiniteLoss(_Around):
    def changed(self, logits: Tensor, batch: Batch) -> Tensor:
        return logits

    def forward(self, batch: Batch) -> Output:
        output = super().forward(batch)
        return output._replace(aux_loss=torch.tensor(torch.inf) if self.training else 0.0)


class _Typo(_Around):
    def changed(self, logits: Tensor, batch: Batch) -> Tensor:
        return self.gaet(logits)


class _MeanOfReal(_Around):
    """Adds the mean over the real tokens, which are none in a sample of padding only."""

    def changed(self, logits: Tensor, batch: Batch) -> Tensor:
        if batch.mask is None or logits.dim() > 2:
            return logits
        share = batch.mask.float().softmax(1) * batch.mask
        return logits + 0 * (share / share.sum(1, keepdim=True)).sum(1, keepdim=True)


def _with(kind: type[_Around]) -> Any:
    @dataclass
    class Method:
        __doc__ = kind.__doc__

        def build(self, spec: TaskSpec, backbone: Backbone) -> nn.Module:
            return kind(backbone.build(spec))

    return Method


SomeNaN, InfiniteLoss, Typo = _with(_SomeNaN), _with(_InfiniteLoss), _with(_Typo)
MeanOfReal = _with(_MeanOfReal)


@dataclass
class NaNAtOnePoint(Dense):
    """Fine at its default, NaN at another operating point."""

    def build(self, spec: TaskSpec, backbone: Backbone) -> nn.Module:
        model = super().build(spec, backbone)
        model.register_buffer("scale", torch.ones(()))
        model.register_forward_hook(
            lambda model, args, output: output._replace(logits=output.logits * model.scale)
        )
        return model

    def points(self) -> list[Point]:
        return [{"scale": 1.0}, {"scale": 2.0}]

    def set_point(self, model: Any, point: Point) -> None:
        model.scale.fill_(torch.nan if point["scale"] == 2.0 else 1.0)


@dataclass
class LeftElsewhere(NaNAtOnePoint):
    """Calibration leaves the model at its last point."""

    def set_point(self, model: Any, point: Point) -> None:
        model.scale.fill_(float(point["scale"]))

    def calibrate(self, model: Any, batches: Any) -> None:
        self.set_point(model, {"scale": 2.0})


@dataclass
class Misspelt(Dense):
    """A hook that nothing ever calls."""

    def calibrte(self, model: nn.Module, batches: Any) -> None:
        raise AssertionError("is never called")


@dataclass
class Diverging(Dense):
    """Its steps are so large that the weights overflow."""

    def param_groups(self, model: nn.Module, lr: float) -> list[dict[str, Any]]:
        return [{"params": list(model.parameters()), "lr": torch.inf}]


@dataclass
class OutOfRange(Dense):
    """A default that its own check refuses."""

    num_experts: int = 0

    def __post_init__(self) -> None:
        if self.num_experts < 1:
            raise ValueError("num_experts=0: must be at least 1")


@dataclass
class Quitting(Dense):
    """Ends the program in a forward pass."""

    def loss(self, model: nn.Module, batch: Batch, criterion: Any, progress: float) -> Tensor:
        raise SystemExit(3)
