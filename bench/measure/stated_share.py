"""Gates at a stated share in every meter: `measure.force_share`.

The model gets hooks that name the inputs of a batch by their content and let
`bench.routing.ShareOfGates` decide. Hooks travel with a model into the processes that time it and
measure its memory, and hold no weights.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from bench import routing
from bench.types import Batch

NUM_READ = 256  # entries of an input that separate it from others


class Forced(NamedTuple):
    """What a stated share changed."""

    note: str
    any: bool  # whether at least one gate runs the share


def force_share(model: nn.Module, share: float, inputs: Batch) -> Forced:
    """Let every gate of `model` run `share` of its elements from now on.

    `inputs`: those that will be measured. Of them a gate that decides about samples runs the share;
    others take the decisions of the most similar one.
    """
    edges = _edges(inputs)
    hooks = Hooks(routing.ShareOfGates(share, len(inputs)), edges)
    # First of all: a control that shuffles decisions sees that they are forced already.
    model.register_forward_pre_hook(hooks.begin, prepend=True)
    model.register_forward_hook(hooks.end, always_call=True)
    model.eval()
    with torch.inference_mode(), routing.observe() as seen:
        model(inputs.select(torch.zeros(1, dtype=torch.int64, device=inputs.inputs.device)))
    return _describe(share, {each.name: routing.takes_share(each) for each in seen.decisions})


def _describe(share: float, takes: dict[str, bool]) -> Forced:
    """`takes`: by gate, whether a share is defined for it."""
    setting = f"measure.force_share={share:g}"
    if not any(takes.values()):
        reason = "the settings of the method fix how much runs, no gate decides it"
        return Forced(f"{setting} forces nothing: {reason}", False)
    left = [name for name, taken in takes.items() if not taken]
    rest = f"; its settings fix what runs at {', '.join(left)}" if left else ""
    return Forced(f"{setting}: its gates run that share, drawn at random{rest}", True)


@dataclass
class Hooks:
    """Hooks around a model's forward pass."""

    gates: routing.ShareOfGates
    edges: Tensor  # [num_inputs - 1], between the fingerprints of the inputs
    _open: list[AbstractContextManager[None]] = field(default_factory=list)

    def begin(self, model: nn.Module, args: tuple[Any, ...]) -> None:
        """Before a forward pass: from here on gates run their share."""
        fingerprints = _fingerprints(args[0].inputs)
        numbers = torch.searchsorted(self.edges.to(fingerprints.device), fingerprints)
        context = routing.at_share(self.gates, numbers)
        context.__enter__()
        self._open.append(context)

    def end(self, model: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """After a forward pass, also after one that failed."""
        self._open.pop().__exit__(None, None, None)


def _edges(inputs: Batch) -> Tensor:
    """Midway between neighbouring fingerprints: rounding changes no input's number."""
    found = _fingerprints(inputs.inputs).sort().values
    return (found[1:] + found[:-1]) / 2


def _fingerprints(inputs: Tensor) -> Tensor:
    """A number that separates an input [B, ...] from others, [B]."""
    # By content, not by place in the batch: a sample alone decides as it does among others.
    flat = inputs.flatten(1)
    return flat[:, :: max(1, flat.shape[1] // NUM_READ)].double().sum(1)
