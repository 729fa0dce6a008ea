"""What gates decided over many batches, each gate in one frame of all samples"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from bench import routing
from bench.routing import Decision
from bench.types import Batch


@dataclass
class Frame:
    """One gate, or the branches of one layer, over all samples that were issued.

    `run` bool and `belief` [N], [N, T] or, where an element chooses among groups, [N, ..., G];
    belief (the gate's probability) is NaN for elements that the gate was never asked about. `real`
    [N] or [N, T]: false for padding, which does not run and has no belief; no share counts it.
    """

    name: str
    run: Tensor
    belief: Tensor
    has_groups: bool
    real: Tensor

    @property
    def executed(self) -> Tensor:
        """What runs of the real elements, bool [M] or [M, G]."""
        return self.run[self.real]

    @property
    def ran(self) -> Tensor:
        """Whether any group ran for an element, bool [N] or [N, T]."""
        return self.run.any(-1) if self.has_groups else self.run


@dataclass
class _Parts:
    """A gate's decisions, batch by batch."""

    run: list[Tensor] = field(default_factory=list)
    belief: list[Tensor] = field(default_factory=list)
    real: list[Tensor] = field(default_factory=list)

    def add(self, run: Tensor, belief: Tensor, real: Tensor) -> None:
        """One batch; padding is no element."""
        fits = real.view(*real.shape, *[1] * (run.dim() - real.dim()))
        self.run.append(run & fits)
        self.belief.append(belief.masked_fill(~fits, torch.nan))
        self.real.append(real)


def watch(model: Any, batches: Iterable[Batch]) -> list[Frame]:
    """Every gate's decisions over `batches`, in the order in which gates are first asked.

    A gate that is asked several times in a pass is that many gates: name, name#2, ... Gates whose
    sequence length changes from batch to batch cannot stand in one frame and are left out.
    """
    parts: dict[str, _Parts] = defaultdict(_Parts)
    for batch in batches:
        with torch.inference_mode(), routing.observe() as seen:
            model(batch)
        times: dict[str, int] = defaultdict(int)
        for decision in seen.decisions:
            times[decision.name] += 1
            number = times[decision.name]
            name = decision.name if number == 1 else f"{decision.name}#{number}"
            run, belief = _placed(decision, len(batch))
            parts[name].add(run, belief, _real(batch, run))
    frames = [_joined(name, each) for name, each in parts.items()]
    return _with_branches([frame for frame in frames if frame is not None])


def _placed(decision: Decision, num_samples: int) -> tuple[Tensor, Tensor]:
    """Choice and belief in the frame of the whole batch: what was not reached does not run."""
    run, belief = decision.run.cpu(), decision.probabilities.cpu().float()
    if decision.index is None:
        return run, belief
    index, shape = decision.index.cpu(), (num_samples, *run.shape[1:])
    full, unknown = torch.zeros(shape, dtype=torch.bool), torch.full(shape, torch.nan)
    return full.index_copy(0, index, run), unknown.index_copy(0, index, belief)


def _real(batch: Batch, run: Tensor) -> Tensor:
    """Which elements of a choice are no padding, [B] or [B, T].

    The mask is that of the inputs, behind a class token if there is one. In an encoder-decoder of
    which both sides are equally long nobody can tell whose tokens these are: then all are real.
    """
    mask, shape = batch.mask, run.shape[: min(2, run.dim())]
    everything = torch.ones(shape, dtype=torch.bool)
    if mask is None or run.dim() < 2:
        return everything
    if batch.decoder_inputs is not None and batch.decoder_inputs.shape[1] == mask.shape[1]:
        return everything
    leading = run.shape[1] - mask.shape[1]
    if leading not in (0, 1):
        return everything
    return torch.cat([everything[:, :leading], mask.cpu()], 1)


def _joined(name: str, parts: _Parts) -> Frame | None:
    if len({run.shape[1:] for run in parts.run}) != 1:
        return None
    run = torch.cat(parts.run)
    belief, real = torch.cat(parts.belief), torch.cat(parts.real)
    return Frame(name, run, belief, has_groups=run.dim() == 3, real=real)


def _with_branches(frames: list[Frame]) -> list[Frame]:
    """Gates `layer.0`, `layer.1`, ... whose beliefs add up to one are the branches of `layer`."""
    layers: dict[str, list[Frame]] = defaultdict(list)
    for frame in frames:
        stem, _, number = frame.name.rpartition(".")
        alone = frame.has_groups or not number.isdigit()
        layers[frame.name if alone else stem].append(frame)
    found: list[Frame] = []
    for stem, members in layers.items():
        found += [_branches(stem, members)] if _are_branches(members) else members
    return found


def _are_branches(members: list[Frame]) -> bool:
    if len({member.run.shape for member in members}) != 1 or len(members) < 2:
        return False
    real = members[0].real
    total = torch.stack([member.belief[real] for member in members]).sum(0)
    return bool(torch.allclose(total, torch.ones_like(total), atol=1e-3))


def _branches(stem: str, members: list[Frame]) -> Frame:
    run = torch.stack([member.run for member in members], -1)
    belief = torch.stack([member.belief for member in members], -1)
    return Frame(stem, run, belief, has_groups=True, real=members[0].real)
