"""What gates decided over many batches, each gate in one frame of all samples and tokens."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import mean
from typing import Any

import torch
from torch import Tensor

from bench import routing
from bench.measure.diagnostics.placing import decided_of, num_positions, placed, real_of, stays_of
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
    # bool [N] or [N, T], the elements that the gate decides about; None: all of them.
    decided: Tensor | None = None
    # Of a merge, bool like `run`: the tokens that continue in their own place, also those that the
    # gate did not decide about because others merge into them. None of any other gate.
    stays: Tensor | None = None

    @property
    def executed(self) -> Tensor:
        """What runs of the real elements, bool [M] or [M, G]."""
        return self.run[self.real]

    @property
    def ran(self) -> Tensor:
        """Whether any unit ran for an element, or it was not merged away, bool [N] or [N, T]."""
        if self.stays is not None:
            return self.stays
        return self.run.any(-1) if self.has_units else self.run


@dataclass
class _Parts:
    """A gate's decisions, batch by batch."""

    has_units: bool
    per_token: bool
    run: list[Tensor] = field(default_factory=list)
    probability: list[Tensor] = field(default_factory=list)
    real: list[Tensor] = field(default_factory=list)
    union: list[float] = field(default_factory=list)
    decided: list[Tensor] = field(default_factory=list)
    stays: list[Tensor] = field(default_factory=list)  # of a merge alone
    merges: bool = False

    def add(
        self, decision: Decision, batch: Batch, num_tokens: int, passed: Sequence[Batch]
    ) -> None:
        """What was decided in one batch; `passed` are the batches before."""
        num_samples, stays = len(batch), stays_of(decision)
        self.merges = self.merges or stays is not None
        run = placed(decision, decision.run.cpu(), num_samples, num_tokens)
        self.add_unreached(passed[len(self.run) :], run)
        belief = decision.probabilities.cpu().float()
        probability = placed(decision, belief, num_samples, num_tokens, torch.nan)
        real = real_of(batch, run, self.per_token)
        self._append(run, probability, real)
        self.decided.append(placed(decision, decided_of(decision), num_samples, num_tokens) & real)
        if stays is not None:
            self.stays.append(placed(decision, stays, num_samples, num_tokens) & real)

    def add_unreached(self, batches: Sequence[Batch], like: Tensor | None = None) -> None:
        """Batches in which the gate was not called: nothing came so far, and nothing runs."""
        for batch in batches:
            shape = (self.run[0] if like is None else like).shape[1:]
            run = torch.zeros(len(batch), *shape, dtype=torch.bool)
            unknown = torch.full(run.shape, torch.nan)
            self._append(run, unknown, real_of(batch, run, self.per_token))
            nothing = torch.zeros_like(self.real[-1])
            self.decided.append(nothing)
            if self.merges:
                self.stays.append(nothing)

    def _append(self, run: Tensor, probability: Tensor, real: Tensor) -> None:
        # Padding is no element.
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
    passed = list[Batch]()
    for batch in batches:
        with torch.inference_mode(), routing.observe() as seen:
            model(batch)
        num_calls: dict[str, int] = defaultdict(int)
        # A network that drops tokens decides about fewer and fewer: the longest row has all.
        num_tokens = max((num_positions(d) for d in seen.decisions if d.per_token), default=0)
        for decision in seen.decisions:
            num_calls[decision.name] += 1
            number = num_calls[decision.name]
            name = decision.name if number == 1 else f"{decision.name}#{number}"
            gate = parts.setdefault(name, _Parts(decision.unit is not None, decision.per_token))
            gate.add(decision, batch, num_tokens, passed)
        passed.append(batch)
    for gate in parts.values():
        gate.add_unreached(passed[len(gate.run) :])
    frames = [_joined(name, each) for name, each in parts.items()]
    return [frame for frame in frames if frame is not None]


def _joined(name: str, parts: _Parts) -> Frame | None:
    if len({run.shape[1:] for run in parts.run}) != 1:
        return None
    run, real = torch.cat(parts.run), torch.cat(parts.real)
    union = mean(parts.union) if parts.union else None
    # A payload in some batches only is of a gate that does not always merge.
    stays = torch.cat(parts.stays) if 0 < len(parts.stays) == len(parts.run) else None
    decided, probability = torch.cat(parts.decided), torch.cat(parts.probability)
    return Frame(name, run, probability, parts.has_units, real, union, decided, stays)
