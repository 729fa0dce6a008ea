"""Inputs that are worth multiplying: gates that leave out small numbers, and layers behind them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.routing import Axis, decide, region
from bench.types import Batch
from methods.parts.sparse.products import Places, weighted_rows
from methods.trunk.feedforward import FeedForward, GatedFeedForward
from methods.trunk.trunk import swap

Activation = Callable[[Tensor], Tensor]
NUM_TOKENS = 1024  # whose magnitudes calibration keeps
UNITS: tuple[Axis, ...] = ("sample", "token", "neurons")


class MagnitudeGate(nn.Module):
    """Lets numbers through whose magnitude is above a threshold, 0 at first.

    `thresholds` [points]: one for each calibrated sparsity. While `seen` is a list, magnitudes
    [N, H] are added to it.
    """

    threshold: Tensor
    thresholds: Tensor

    def __init__(self, name: str, num_points: int, cost: float) -> None:
        super().__init__()
        self.name, self.cost = name, cost  # FLOPs of one number that is let through
        self.seen: list[Tensor] | None = None
        self.register_buffer("threshold", torch.tensor(0.0))
        self.register_buffer("thresholds", torch.zeros(num_points))

    def forward(self, x: Tensor, cost: float | None = None) -> Tensor:
        """Which numbers of `x` [B, T, H] run, bool like x. `cost`: in place of the gate's own."""
        with region("router"):
            magnitude = x.detach().abs()
            if self.seen is not None:
                self.seen.append(magnitude.flatten(0, -2))
            return decide(
                self.name,
                axes=UNITS,
                probabilities=magnitude,
                run=magnitude > self.threshold,
                cost=self.cost if cost is None else cost,
            )


def quantile(magnitudes: Tensor, share: float) -> Tensor:
    """The number that `share` of the magnitudes do not exceed; 0 for a share of 0."""
    values = magnitudes.flatten()
    rank = round(share * len(values))
    # torch.quantile refuses more than 16 million numbers.
    return values.kthvalue(rank).values if rank else values.new_zeros(())


class ThresholdLinear(nn.Module):
    """W x + b over the inputs that a gate lets through, [B, T, K] -> [B, T, N]."""

    def __init__(self, dense: nn.Linear, name: str, num_points: int) -> None:
        super().__init__()
        # Transposed: the weights of one input are contiguous, and are read or not as a whole.
        self.table = nn.Parameter(dense.weight.detach().T.contiguous())  # [K, N]
        self.bias = dense.bias
        self.gate = MagnitudeGate(name, num_points, 2.0 * self.table.shape[1])

    def forward(self, x: Tensor) -> Tensor:
        return self.rows(x, 0, self.table.shape[1])

    def rows(self, x: Tensor, begin: int, end: int) -> Tensor:
        """Outputs `begin` to `end` alone, [B, T, K] -> [B, T, end - begin]."""
        run = self.gate(x, 2.0 * (end - begin))
        table: Tensor = self.table
        if end - begin < table.shape[1]:  # a copy: rows of a table are read whole
            table = table[:, begin:end].contiguous()
        y = _sum_rows(table, x, run, masked=self.training)
        return y if self.bias is None else y + self.bias[begin:end]


class SparseDown(nn.Module):
    """The second matrix of a feed-forward layer, for the neurons that a gate lets through."""

    def __init__(self, dense: nn.Linear) -> None:
        super().__init__()
        self.table = nn.Parameter(dense.weight.detach().T.contiguous())  # [H, D]
        self.bias = dense.bias

    def forward(self, hidden: Tensor, run: Tensor) -> Tensor:
        """[B, T, H] and which of it runs -> [B, T, D]."""
        y = _sum_rows(self.table, hidden, run, masked=self.training)
        return y if self.bias is None else y + self.bias


class ThresholdFFN(nn.Module):
    """W2 f(W1 x) over the activations that a gate lets through: rows of W2 are skipped.

    `activate` replaces f. With `l1`, training also returns `l1` times the mean activation.
    """

    def __init__(
        self,
        dense: FeedForward,
        name: str,
        num_points: int,
        activate: Activation | None = None,
        l1: float = 0.0,
    ) -> None:
        super().__init__()
        self.up, self.activate, self.l1 = dense.up, activate or dense.activate, l1
        self.down = SparseDown(dense.down)
        self.gate = MagnitudeGate(name, num_points, 2.0 * dense.dim)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:  # [B, T, D]
        hidden = self.activate(self.up(x))
        y = self.down(hidden, self.gate(hidden))
        return (y, self.l1 * hidden.abs().mean()) if self.training and self.l1 else y


class ThresholdGatedFFN(nn.Module):
    """W2 (f(Wg x) * W1 x) where a gate lets f(Wg x) through: rows of W1 and W2 are skipped.

    `activate` and `l1` as in `ThresholdFFN`.
    """

    def __init__(
        self,
        dense: GatedFeedForward,
        name: str,
        num_points: int,
        activate: Activation | None = None,
        l1: float = 0.0,
    ) -> None:
        super().__init__()
        self.opening, self.up = dense.gate, dense.up
        self.activate, self.l1 = activate or F.silu, l1
        self.down = SparseDown(dense.down)
        self.gate = MagnitudeGate(name, num_points, 4.0 * dense.dim)  # a row of both

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:  # [B, T, D]
        opened = self.activate(self.opening(x))  # [B, T, H]
        run = self.gate(opened)
        if not self.training:
            return self._run_sparse(x, opened, run)
        y = self.down(opened * self.up(x), run)
        return (y, self.l1 * opened.abs().mean()) if self.l1 else y

    def _run_sparse(self, x: Tensor, opened: Tensor, run: Tensor) -> Tensor:
        flat, weight = run.flatten(0, 1), self.up.weight  # weight [H, D]: a row is a neuron's
        places = Places.of(flat)
        if places is None:
            y = x.new_zeros(x.shape)
        else:
            raised = places.products(x.flatten(0, 1).to(weight.dtype), weight)  # [P]
            if self.up.bias is not None:
                raised = raised + self.up.bias.index_select(0, places.columns)
            values = opened.flatten(0, 1)[flat].to(weight.dtype) * raised
            y = places.sum_rows(self.down.table, values).view_as(x)
        return y if self.down.bias is None else y + self.down.bias


def _sum_rows(table: Tensor, x: Tensor, run: Tensor, *, masked: bool) -> Tensor:
    """The table's rows [H, D] weighted by `x` [B, T, H] where `run` -> [B, T, D]."""
    if masked:
        return (x * run) @ table
    y = weighted_rows(table, x.flatten(0, -2), run.flatten(0, -2))
    return y.unflatten(0, x.shape[:-1])


def replace_feeds(model: nn.Module, num_points: int, **settings: Any) -> int:
    """Give every feed-forward layer a gate on its activations; returns how many have one."""
    kinds = ((FeedForward, ThresholdFFN), (GatedFeedForward, ThresholdGatedFFN))
    num_gates = 0
    for old, new in kinds:
        num_gates += swap(model, old, partial(_gated, new, num_points, settings))
    return num_gates


def _gated(
    new: Callable[..., nn.Module],
    num_points: int,
    settings: Mapping[str, Any],
    path: str,
    old: nn.Module,
) -> nn.Module:
    return new(old, path, num_points, **settings)


def gates(model: nn.Module) -> list[MagnitudeGate]:
    """The gates of a model, in order."""
    return [module for module in model.modules() if isinstance(module, MagnitudeGate)]


def use_point(model: nn.Module, number: int) -> None:
    """Set every gate to its threshold of operating point `number`."""
    for gate in gates(model):
        gate.threshold.copy_(gate.thresholds[number])


@torch.no_grad()
def collect(model: Any, batches: Iterable[Batch]) -> dict[MagnitudeGate, Tensor]:
    """The magnitudes that every gate gets, of about NUM_TOKENS tokens each, [N, H].

    With thresholds of 0, which it leaves set.
    """
    found = gates(model)
    for gate in found:
        gate.seen = []
        gate.threshold.zero_()
    for batch in batches:
        model(batch)
        if min(sum(map(len, gate.seen or [])) for gate in found) >= NUM_TOKENS:
            break
    magnitudes = {gate: torch.cat(gate.seen or [])[:NUM_TOKENS] for gate in found}
    for gate in found:
        gate.seen = None
    return magnitudes
