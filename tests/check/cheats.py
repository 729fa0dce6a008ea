"""Methods that cheat, each in one way, and an honest one to compare with."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn

from bench.routing import SAMPLES, TOKENS, decide, region
from bench.types import Backbone, Batch, Output, TaskSpec


class GatedFFN(nn.Module):
    """Skips tokens for real at inference; masks in training."""

    def __init__(self, dim: int, hidden: int, name: str) -> None:
        super().__init__()
        self.name, self.cost = name, 4.0 * dim * hidden
        self.gate = nn.Linear(dim, 1)
        self.ffn = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))

    def forward(self, x: Tensor) -> Tensor:  # [B, T, D] -> [B, T, D]
        with region("router"):
            open_ = self.gate(x)[..., 0].sigmoid()  # [B, T]
            run = self.decide(open_)
            weight = run + (open_ - open_.detach())
        return weight[..., None] * self.ffn(x) if self.training else self.skipping(x, run)

    def decide(self, open_: Tensor) -> Tensor:
        return decide(self.name, axes=TOKENS, probabilities=open_, run=open_ > 0.5, cost=self.cost)

    def skipping(self, x: Tensor, run: Tensor) -> Tensor:
        y = torch.zeros_like(x)
        if run.any():
            y[run] = self.ffn(x[run]).to(y.dtype)
        return y


class Masking(GatedFFN):
    """Computes every token and multiplies by zero, at inference too."""

    def skipping(self, x: Tensor, run: Tensor) -> Tensor:
        return run[..., None] * self.ffn(x)


class FirstDecides(GatedFFN):
    """All samples of a batch do what the first one wants."""

    def decide(self, open_: Tensor) -> Tensor:
        run = (open_[:1] > 0.5).expand_as(open_)
        return decide(self.name, axes=TOKENS, probabilities=open_, run=run, cost=self.cost)


class Disobedient(GatedFFN):
    """Announces its decision and does what it wanted anyway."""

    def decide(self, open_: Tensor) -> Tensor:
        super().decide(open_)
        return open_ > 0.5


class Leaky(GatedFFN):
    """Lets closed tokens through in training, a little."""

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return y + 1e-6 * self.ffn(x) if self.training else y


class LooksAhead(GatedFFN):
    """Compares a token with the mean of its sequence."""

    def decide(self, open_: Tensor) -> Tensor:
        run = open_ > open_.mean(1, keepdim=True)
        return decide(self.name, axes=TOKENS, probabilities=open_, run=run, cost=self.cost)


class CallsEmpty(GatedFFN):
    """Calls its layer on what runs, be it nothing."""

    def skipping(self, x: Tensor, run: Tensor) -> Tensor:
        y = torch.zeros_like(x)
        y[run] = self.ffn(x[run]).to(y.dtype)
        return y


class Deaf(GatedFFN):
    """A gate without a gradient."""

    def decide(self, open_: Tensor) -> Tensor:
        return super().decide(open_.detach())

    def forward(self, x: Tensor) -> Tensor:
        with region("router"), torch.no_grad():
            run = self.decide(self.gate(x)[..., 0].sigmoid())
        return run[..., None] * self.ffn(x) if self.training else self.skipping(x, run)


@dataclass
class Honest:
    """Gated feed-forward layers."""

    def build(self, spec: TaskSpec, backbone: Backbone) -> nn.Module:
        layer = count()
        built: nn.Module = backbone.build(
            spec, ffn=lambda dim, hidden: self.layer()(dim, hidden, f"gate{next(layer)}")
        )
        return built

    def layer(self) -> Any:
        return GatedFFN


def _with(kind: type[GatedFFN]) -> type[Honest]:
    @dataclass
    class Method(Honest):
        __doc__ = kind.__doc__

        def layer(self) -> Any:
            return kind

    return Method


MaskingMethod = _with(Masking)
FirstDecidesMethod = _with(FirstDecides)
DisobedientMethod = _with(Disobedient)
LeakyMethod = _with(Leaky)
LooksAheadMethod = _with(LooksAhead)
CallsEmptyMethod = _with(CallsEmpty)
DeafMethod = _with(Deaf)


class _Wrapped(nn.Module):
    def __init__(self, trunk: nn.Module) -> None:
        super().__init__()
        self.trunk = trunk


class _Remembering(_Wrapped):
    """Looks inputs up that it has answered before."""

    def __init__(self, trunk: nn.Module) -> None:
        super().__init__(trunk)
        self.answers: dict[bytes, Tensor] = {}

    def forward(self, batch: Batch) -> Output:
        if self.training:
            return self.trunk(batch)
        key = batch.inputs.numpy().tobytes()
        if key not in self.answers:
            self.answers[key] = self.trunk(batch).logits
        return Output(self.answers[key])


class _Deduplicating(_Wrapped):
    """Computes repeated samples of a batch once."""

    def forward(self, batch: Batch) -> Output:
        if self.training or batch.mask is not None:
            return self.trunk(batch)
        _, back = batch.inputs.unique(dim=0, return_inverse=True)
        first = torch.stack([(back == k).nonzero()[0, 0] for k in range(int(back.max()) + 1)])
        return Output(self.trunk(batch.select(first)).logits[back])


class _Peeking(_Wrapped):
    """Runs the last block only where the label is odd."""

    def forward(self, batch: Batch) -> Output:
        state = self.trunk.stem(batch)
        for block in self.trunk.blocks[:-1]:
            state = block(state)
        odd = (
            batch.targets.flatten(1)[:, 0] % 2 == 1
            if batch.targets.dim() > 1
            else (batch.targets % 2 == 1)
        )
        run = decide("peek", axes=SAMPLES, probabilities=odd.float(), run=odd, cost=1.0)
        new = self.trunk.blocks[-1](state)
        state.x = torch.where(run[:, None, None], new.x, state.x)
        return Output(self.trunk.head(state))


def _around(kind: type[_Wrapped]) -> type:
    @dataclass
    class Method:
        __doc__ = kind.__doc__

        def build(self, spec: TaskSpec, backbone: Backbone) -> nn.Module:
            return kind(backbone.build(spec))

    return Method


RememberingMethod = _around(_Remembering)
DeduplicatingMethod = _around(_Deduplicating)
PeekingMethod = _around(_Peeking)


@dataclass
class SpoilsDense(Honest):
    """Converts the dense model in place."""

    def convert(self, dense: nn.Module, batches: Any) -> nn.Module:
        with torch.no_grad():
            next(dense.parameters()).add_(1)
        return dense


@dataclass
class FalselyDense(Honest):
    """Says that it starts as the dense model, and does not."""

    open_is_dense = True

    def convert(self, dense: nn.Module, batches: Any) -> nn.Module:
        return self.build(dense.spec, _Small(dense))


@dataclass
class _Small:
    like: Any

    def build(self, spec: TaskSpec, **ways: Any) -> nn.Module:
        from bench.check.tiny_tasks import tiny_backbones

        return tiny_backbones()["transformer"].build(spec, **ways)


@dataclass
class Forgetful(Honest):
    """Keeps a part of its answer outside the state_dict."""

    def build(self, spec: TaskSpec, backbone: Backbone) -> nn.Module:
        model = super().build(spec, backbone)
        shift = torch.randn(spec.num_outputs)
        model.register_forward_hook(lambda m, args, out: out._replace(logits=out.logits + shift))
        return model


@dataclass
class Crashing(Honest):
    """Fails on images by itself instead of refusing them."""

    def build(self, spec: TaskSpec, backbone: Backbone) -> nn.Module:
        if spec.kind == "image":
            raise KeyError("tokens")
        return super().build(spec, backbone)
