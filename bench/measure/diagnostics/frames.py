"""What gates decided over many batches, each gate in one frame of all samples and tokens."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import mean
from typing import Any

import torch
from torch import Tensor

from bench import routing
from bench.routing import Decision
from bench.types import Batch


@dataclass
class Frame:
    """One gate over all samples that were issued, in the frame of the original samples and tokens.

    `run` bool and `probability` [N], [N, T] or, where an element has units (choices, neurons,
    heads, steps), [N, ..., G]; probability is NaN for elements that the gate did not decide about.
    `real` [N] or [N, T]: false for padding, which does not run and enters no share.
    """

    name: str
    run: Tensor
    probability: Tensor
    has_units: bool
    real: Tensor
    union: float | None = None  # share of the units that run for any element of a batch, mean

    @property
    def executed(self) -> Tensor:
        """What runs of the real elements, bool [M] or [M, G]."""
        return self.run[self.real]

    @property
    def ran(self) -> Tensor:
        """Whether any unit ran for an element, bool [N] or [N, T]."""
        return self.run.any(-1) if self.has_units else self.run


@dataclass
class _Parts:
    """A gate's decisions, batch by batch."""

    has_units: bool
    run: list[Tensor] = field(default_factory=list)
    probability: list[Tensor] = field(default_factory=list)
    real: list[Tensor] = field(default_factory=list)
    union: list[float] = field(default_factory=list)

    def add(self, run: Tensor, probability: Tensor, real: Tensor) -> None:
        """One batch; padding is no element."""
        fits = real.view(*real.shape, *[1] * (run.dim() - real.dim()))
        self.run.append(run & fits)
        if self.has_units:
            self.union.append(float((run & fits).flatten(0, -2).any(0).double().mean()))
        self.probability.append(probability.masked_fill(~fits, torch.nan))
        self.real.append(real)


def watch(model: Any, batches: Iterable[Batch]) -> list[Frame]:
    """Every gate's decisions over `batches`, in the order in which gates first decide.

    A gate that decides several times in a pass is that many gates: name, name#2, ... Gates whose
    sequence length changes from batch to batch cannot stand in one frame and are left out.
    """
    parts: dict[str, _Parts] = {}
    for batch in batches:
        with torch.inference_mode(), routing.observe() as seen:
            model(batch)
        num_calls: dict[str, int] = defaultdict(int)
        # A network that drops tokens decides about fewer and fewer: the longest row has all.
        num_tokens = max((_length(d) for d in seen.decisions if d.per_token), default=0)
        for decision in seen.decisions:
            num_calls[decision.name] += 1
            number = num_calls[decision.name]
            name = decision.name if number == 1 else f"{decision.name}#{number}"
            run, probability = _placed(decision, len(batch), num_tokens)
            gate = parts.setdefault(name, _Parts(decision.unit is not None))
            gate.add(run, probability, _real(batch, run, decision.per_token))
    frames = [_joined(name, each) for name, each in parts.items()]
    return [frame for frame in frames if frame is not None]


def _length(decision: Decision) -> int:
    """Tokens of the longest sample that a decision shows: by its row, or by their positions."""
    tokens = decision.tokens
    last = 0 if tokens is None or not tokens.numel() else int(tokens.max()) + 1
    return max(decision.run.shape[1], last)


def _placed(decision: Decision, num_samples: int, num_tokens: int) -> tuple[Tensor, Tensor]:
    """Choice and probability in the frame of the whole batch: what was not reached does not run."""
    run, probability = decision.run.cpu(), decision.probabilities.cpu().float()
    if decision.tokens is not None:
        tokens = decision.tokens.cpu()
        tokens = tokens.view(*tokens.shape, *[1] * (run.dim() - 2)).expand_as(run)
        wide = (len(run), num_tokens, *run.shape[2:])
        run = torch.zeros(wide, dtype=torch.bool).scatter(1, tokens, run)
        probability = torch.full(wide, torch.nan).scatter(1, tokens, probability)
    if decision.index is None:
        return run, probability
    index, shape = decision.index.cpu(), (num_samples, *run.shape[1:])
    full, unknown = torch.zeros(shape, dtype=torch.bool), torch.full(shape, torch.nan)
    return full.index_copy(0, index, run), unknown.index_copy(0, index, probability)


def _real(batch: Batch, run: Tensor, per_token: bool) -> Tensor:
    """Which elements of a choice are no padding, [B] or [B, T].

    The mask is that of the inputs, behind a class token if there is one. In an encoder-decoder of
    which both sides are equally long the tokens' side is unknown: then all count as real.
    """
    mask, shape = batch.mask, run.shape[: 2 if per_token else 1]
    everything = torch.ones(shape, dtype=torch.bool)
    if mask is None or not per_token:
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
    run, real = torch.cat(parts.run), torch.cat(parts.real)
    union = mean(parts.union) if parts.union else None
    return Frame(name, run, torch.cat(parts.probability), parts.has_units, real, union)
