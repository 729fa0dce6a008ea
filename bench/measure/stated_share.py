"""Gates at a stated share and routing in every meter: `measure.force_share`, `measure.routing`.

The model gets hooks that name the inputs of a batch by their content and let
`bench.routing.StatedGates` decide. Hooks travel with a model into the processes that time it and
measure its memory, and hold no weights.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from bench import routing
from bench.config import MeasureConfig
from bench.records.loads import recorded_loads
from bench.routing import StatedExperts
from bench.types import Batch

NUM_READ = 256  # entries of an input that separate it from others


class Forced(NamedTuple):
    """What a stated share or routing changed."""

    note: str
    any: bool  # whether the share or routing applies to at least one gate


def force_share(
    model: nn.Module, share: float | None, inputs: Batch, experts: StatedExperts | None = None
) -> Forced:
    """Let every gate of `model` run `share` of its elements from now on, and route to `experts`.

    `inputs`: those that will be measured. Of them a gate that decides about samples runs the share;
    others take the decisions of the most similar one. A model of whose gates none is concerned
    stays as it is. Raises ValueError for a gate whose load was not recorded.
    """
    shares = None if share is None else routing.ShareOfGates(share, len(inputs))
    hooks = Hooks(routing.StatedGates(shares, experts), _edges(inputs))
    # First of all: a control that shuffles decisions sees that they are forced already.
    begin = model.register_forward_pre_hook(hooks.begin, prepend=True)
    end = model.register_forward_hook(hooks.end, always_call=True)
    model.eval()
    with torch.inference_mode(), routing.observe() as seen:
        model(inputs.select(torch.zeros(1, dtype=torch.int64, device=inputs.inputs.device)))
    found = [
        *([_share_of(share, seen)] if share is not None else []),
        *([_routing_of(experts, seen)] if experts is not None else []),
    ]
    forced = Forced("; ".join(each.note for each in found), any(each.any for each in found))
    if not forced.any:  # hooks that change nothing would still take time
        begin.remove()
        end.remove()
    return forced


def stated_experts(config: MeasureConfig, num_inputs: int) -> StatedExperts | None:
    """The experts that `measure.routing` states for so many inputs; None for the router's own.

    Raises ValueError as `recorded_loads` does.
    """
    if config.routing == routing.OWN:
        return None
    loads = recorded_loads(config.routing_from) if config.routing_from else {}
    return StatedExperts(cast("routing.Routing", config.routing), num_inputs, loads)


def _share_of(share: float, seen: routing.Observation) -> Forced:
    """Which gates the share is defined for."""
    takes = {each.name: routing.takes_share(each) for each in seen.decisions}
    setting = f"measure.force_share={share:g}"
    if not any(takes.values()):
        reason = "the settings of the method fix how much runs, no gate decides it"
        return Forced(f"{setting} forces nothing: {reason}", False)
    left = [name for name, taken in takes.items() if not taken]
    rest = f"; its settings fix what runs at {', '.join(left)}" if left else ""
    return Forced(f"{setting}: its gates run that share, drawn at random{rest}", True)


def _routing_of(experts: StatedExperts, seen: routing.Observation) -> Forced:
    """Whether any gate routes to experts."""
    setting = f"measure.routing={experts.routing}"
    if not any(map(routing.routes, seen.decisions)):
        return Forced(f"{setting} changes nothing: no gate routes to experts", False)
    return Forced(f"{setting}: as many experts as the gates choose, but stated ones", True)


@dataclass
class Hooks:
    """Hooks around a model's forward pass."""

    gates: routing.StatedGates
    edges: Tensor  # [num_inputs - 1], between the fingerprints of the inputs
    _open: list[AbstractContextManager[None]] = field(default_factory=list)

    def begin(self, model: nn.Module, args: tuple[Any, ...]) -> None:
        """Before a forward pass: from here on gates run what is stated."""
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
