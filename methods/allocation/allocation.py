"""Compute allocation: a = f(x; theta) for every token and block, or for every sample and block.

Before block l a small network reads a token's own state and allocates

    a_i = sigmoid(W2 relu(W1 x_i) + b)

of the block to it. The block runs where a_i > 1/2. The loss is L + lambda sum_i a_i, in the
normalised form lambda sum_i c_i a_i / sum_i c_i with c_i the FLOPs of an element, so that lambda
depends on neither depth nor length; `price=sum` is the literal one. lambda is fixed, or found by
dual ascent for a budget of the share (Bengio et al. 2016, "Conditional Computation in Neural
Networks for faster models", price the expected activity of Bernoulli gates in the same way).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any, cast, get_args

import torch
from torch import Tensor, nn

from bench import routing
from bench.types import Backbone, Batch, Criterion, OneOf, Output, Point, Range, TaskSpec
from methods.parts.allocation.elements import Elements, Samples, Tokens
from methods.parts.budget import Budget, compute_share
from methods.parts.gates import Estimator, Gate, binary, self_critical_loss
from methods.trunk.cache import Cache
from methods.trunk.decoding import greedy
from methods.trunk.state import State
from methods.trunk.trunk import Trunk

# Of a, at inference. Gates are trained around 1/2, which is the default.
THRESHOLDS = (0.5, 0.01, 0.05, 0.1, 0.2, 0.35, 0.65, 0.8, 0.9, 0.95)
OPEN = 2.0  # a gate's logit at initialisation: a = 0.88, and the model is the dense one
CLOSED = -1e4  # the logit of what no gate decides about: probability 0, without a gradient


@dataclass
class Allocation:
    """Gated blocks of a trained dense model, fine-tuned; training computes all and masks.

    `per`: token, or sample where one label belongs to a sample. `hidden`: rows of W1. `estimator`:
    how a learns, one of `methods.parts.gates.Estimator`; soft trains another model than inference
    runs. `budget`: the share of compute that dual ascent aims at; null for a fixed lambda,
    `cost_weight`, which otherwise is the initial one. `price`: share is the normalised form, sum
    the literal sum over a sample's elements.
    """

    compaction = "before every block the tokens (or samples) that run it are gathered"

    per: Annotated[str, OneOf("token", "sample")] = "token"
    hidden: Annotated[int, Range(1)] = 16
    estimator: Annotated[str, OneOf(*get_args(Estimator))] = "gumbel"
    budget: Annotated[float | None, Range(gt=0, le=1)] = 0.5
    cost_weight: Annotated[float, Range(0)] = 0.0
    price: Annotated[str, OneOf("share", "sum")] = "share"
    train_share: Annotated[float, Range(0)] = 0.3
    open_is_dense = True  # every element runs every block

    def __post_init__(self) -> None:
        """Raises ValueError for a literal sum with a budget, which is a share."""
        if self.price == "sum" and self.budget is not None:
            raise ValueError(
                f"price=sum has a fixed cost_weight, and budget={self.budget} is a share:"
                " set budget=null, or price=share"
            )

    def build(self, spec: TaskSpec, backbone: Backbone) -> nn.Module:
        """The untrained backbone with gates."""
        return AllocationModel(backbone.build(spec), self)

    def convert(self, dense: Trunk, batches: Iterable[Batch]) -> nn.Module:
        """A copy of the trained trunk with gates."""
        return AllocationModel(deepcopy(dense), self)

    def points(self) -> list[Point]:
        """Thresholds of a at inference, the trained one first."""
        return [{"threshold": threshold} for threshold in THRESHOLDS]

    def set_point(self, model: AllocationModel, point: Point) -> None:
        """Run a block where a exceeds `point["threshold"]` from now on."""
        model.threshold.fill_(float(point["threshold"]))

    def loss(self, model: Any, batch: Batch, criterion: Criterion, progress: float) -> Tensor:
        """Criterion and price of compute; reinforce compares sampled with greedy decisions."""
        output = model(batch)
        loss = criterion(output, batch) + output.aux_loss
        if self.estimator != "reinforce":
            return loss

        def decide_greedily() -> Output:
            with routing.observe():  # without which a pass of inference keeps no decisions
                return cast(Output, model(batch))

        decided = output.stats["logits"], output.stats["run"]
        reward = partial(model.reward, batch=batch, criterion=criterion)
        return loss + self_critical_loss(model, output, decide_greedily, reward, *decided)


class AllocationModel(nn.Module):
    """`trunk` with a gate before every block that can be left out.

    Raises Unsupported where elements of the kind that is set get no compute of their own.
    """

    threshold: Tensor

    def __init__(self, trunk: Trunk, settings: Allocation) -> None:
        super().__init__()
        self.register_buffer("threshold", torch.tensor(THRESHOLDS[0]))
        self.trunk, self.settings = trunk, settings
        self.elements: Elements = Tokens(trunk) if settings.per == "token" else Samples(trunk)
        # Named by block: ModuleDict keys are strings.
        self.gates = nn.ModuleDict(
            {str(i): make_gate(width, settings.hidden) for i, width in self.elements.widths.items()}
        )
        self.budget = Budget(settings.cost_weight, settings.budget)

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
        if self.settings.price == "share":
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

        gate = binary(logits, self.settings.estimator, training=self.training, decide=obey)  # type: ignore[arg-type]
        eligible = self.elements.eligible(state)
        if eligible is not None:  # soft values are above 0 in padding, too
            gate = gate._replace(value=gate.value * eligible)
        return logits, gate

    def _price(self, found: list[tuple[Tensor, Gate, Tensor | None]]) -> Tensor:
        """The penalty on the compute that gates allocate."""
        # Samples have no gradient: with reinforce this only adapts the budget's weight, which
        # enters the reward.
        sampled = self.settings.estimator == "reinforce"
        spent = [gate.run.float() if sampled else gate.probability for _, gate, _ in found]
        kept = [a if e is None else a[e] for a, (_, _, e) in zip(spent, found, strict=True)]
        if self.settings.price == "sum":
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
        if self.budget.target is not None and float(self.threshold) == THRESHOLDS[0]:
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
