"""Compute allocation as a model: gates a = sigmoid(W2 relu(W1 x)) in front of a trunk's blocks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from bench import routing
from bench.types import Batch, Criterion, Output
from methods.parts.allocation.elements import Elements
from methods.parts.budget import Budget, compute_share
from methods.parts.gates import Estimator, Gate, binary
from methods.trunk.cache import Cache
from methods.trunk.decoding import greedy
from methods.trunk.state import State
from methods.trunk.trunk import Trunk

TRAINED = 0.5  # the threshold of a that gates are trained around
OPEN = 2.0  # a gate's logit at initialisation: a = 0.88, and the model is the dense one
CLOSED = -1e4  # the logit of what no gate decides about: probability 0, without a gradient


@dataclass(frozen=True)
class Price:
    """lambda, fixed or (with a budget) at first; `by_share` of the normalised sum, else literal."""

    weight: float
    budget: float | None
    by_share: bool


class AllocationModel(nn.Module):
    """`trunk` with a gate before every block that can be left out.

    `elements` are what gates decide about, `hidden` the rows of W1, `estimator` how a learns.
    """

    threshold: Tensor

    def __init__(
        self, elements: Elements, trunk: Trunk, hidden: int, estimator: Estimator, price: Price
    ) -> None:
        super().__init__()
        self.register_buffer("threshold", torch.tensor(TRAINED))
        self.trunk, self.elements = trunk, elements
        self.estimator: Estimator = estimator
        # Named by block: ModuleDict keys are strings.
        self.gates = nn.ModuleDict(
            {str(i): make_gate(width, hidden) for i, width in elements.widths.items()}
        )
        self.by_share, self.budget = price.by_share, Budget(price.weight, price.budget)

    def forward(self, batch: Batch, cache: Cache | None = None) -> Output:
        """Logits; with a cache `batch` holds the next tokens, and they are the last one's only.

        `stats`, in training and where decisions are watched: `logits`, `run` bool and `eligible`
        bool, all [B, elements] gate after gate, and at the trained threshold with a budget
        `budget_error`, the share of compute that ran minus the budget, a scalar.
        """
        state = self.trunk.begin(batch, cache)
        found = list[tuple[Tensor, Gate, Tensor | None]]()  # logits, gate, eligible elements
        for number, block in enumerate(self.trunk.blocks):
            if number not in self.elements.widths:
                state = block(state)
                continue
            with routing.region("router"):
                logits, gate = self._decide(number, block, state)
            found.append((logits, gate, self.elements.eligible(state)))
            if self.training:
                state = self.elements.run_masked(block, state, gate.value)
            else:
                state = self.elements.run_chosen(block, state, gate.run)
        if cache is not None:
            state = replace(state, x=state.x[:, -1:])
        logits = self.trunk.head(state)
        if not (self.training or routing.is_watched()):
            return Output(logits)
        price = self._price(found) if self.training else 0.0
        return Output(logits, state.aux_loss + price, self._stats(found))

    def generate(self, prompt: Batch, num_tokens: int) -> Iterator[Tensor]:
        """The likeliest next tokens, one by one; see `methods.trunk.decoding`."""
        return greedy(self, self.trunk.spec, prompt, num_tokens)

    def reward(self, output: Output, batch: Batch, criterion: Criterion) -> Tensor:
        """-(loss + price of what ran) of each sample, [B]."""
        run, eligible = output.stats["run"], output.stats["eligible"]
        spent = run.float()
        if self.by_share:
            costs = self._costs_like(run)
            spent = spent * costs / (eligible * costs).sum(1, keepdim=True).clamp_min(1)
        # A criterion is a mean over its batch: sample by sample it gives each one's loss.
        rows = torch.arange(len(batch), device=run.device)[:, None]
        losses = [criterion(Output(output.logits[row]), batch.select(row)) for row in rows]
        return -(torch.stack(losses) + self.budget.weight * spent.sum(1))

    def _decide(self, number: int, block: nn.Module, state: State) -> tuple[Tensor, Gate]:
        """Logits and gate of one block, [B, T] or [B]."""
        # fp32: noise and log probabilities are too coarse in bf16.
        logits = self.gates[str(number)](self.elements.read(state))[..., 0].float()
        if not self.training:
            logits = logits - self.threshold.logit()

        def obey(probability: Tensor, run: Tensor) -> Tensor:
            return self.elements.decide(number, block, state, probability, run)

        gate = binary(logits, self.estimator, training=self.training, decide=obey)
        eligible = self.elements.eligible(state)
        if eligible is not None:  # soft values are above 0 in padding, too
            gate = gate._replace(value=gate.value * eligible)
        return logits, gate

    def _price(self, found: list[tuple[Tensor, Gate, Tensor | None]]) -> Tensor:
        """The penalty on the compute that gates allocate."""
        # Samples have no gradient: with reinforce this only adapts the budget's weight, which
        # enters the reward.
        sampled = self.estimator == "reinforce"
        spent = [gate.run.float() if sampled else gate.probability for _, gate, _ in found]
        kept = [a if e is None else a[e] for a, (_, _, e) in zip(spent, found, strict=True)]
        if not self.by_share:
            total = torch.stack([a.sum() for a in kept]).sum()
            return self.budget(total / len(found[0][0]))
        return self.budget(compute_share(zip(kept, self.elements.flops.values(), strict=True)))

    def _stats(self, found: list[tuple[Tensor, Gate, Tensor | None]]) -> dict[str, Tensor]:
        """What `forward` documents."""
        every = torch.cat([_by_sample(gate.run) for _, gate, _ in found], 1)
        eligible = torch.cat(
            [_by_sample(torch.ones_like(g.run) if e is None else e) for _, g, e in found], 1
        )
        logits = torch.cat([_by_sample(logit) for logit, _, _ in found], 1)
        stats = {
            "logits": logits.masked_fill(~eligible, CLOSED),
            "run": every,
            "eligible": eligible,
        }
        if self.budget.target is not None and float(self.threshold) == TRAINED:
            costs = self._costs_like(every)
            share = (every * costs).sum() / (eligible * costs).sum().clamp_min(1)
            stats["budget_error"] = share - self.budget.target
        return stats

    def _costs_like(self, run: Tensor) -> Tensor:
        """FLOPs of each element of `run` [B, elements], [elements]."""
        costs = run.new_tensor(list(self.elements.flops.values()), dtype=torch.float32)
        return costs.repeat_interleave(run.shape[1] // len(costs))


def _by_sample(values: Tensor) -> Tensor:
    """[B, T] as it is, [B] as [B, 1]."""
    return values if values.dim() == 2 else values[:, None]


def make_gate(width: int, hidden: int) -> nn.Module:
    """x [..., width] -> a logit [..., 1]: W2 relu(W1 x), open at first."""
    last = nn.Linear(hidden, 1)
    nn.init.constant_(last.bias, OPEN)
    return nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), last)
