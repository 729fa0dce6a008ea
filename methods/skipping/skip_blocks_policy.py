"""BlockDrop: a small policy network reads the input and decides for all blocks before the first.

Wu et al. 2018, "BlockDrop: Dynamic Inference Paths in Residual Networks". The policy gives block k
the probability p_k of running; training samples from the squeezed a p_k + (1 - a) (1 - p_k) and
learns by REINFORCE from the reward of the n blocks that may be skipped,

    1 - (number that ran / n)^2   if the sample is classified correctly,   -penalty   otherwise,

minus that of the greedy policy (self-critical baseline, Rennie et al. 2017). A curriculum lets the
policy decide about the last block first, and about one more after the other from there.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.routing import SAMPLES, decide, region
from bench.types import Backbone, Batch, Criterion, Output, Point, Range, TaskSpec, check_fields
from methods.parts import dispatch
from methods.parts.blocks.gated_blocks import run_masked, run_on, skippable
from methods.parts.gates import self_critical_loss
from methods.trunk.head import mean_token
from methods.trunk.state import State
from methods.trunk.stem import as_images
from methods.trunk.trunk import Trunk

OPEN = 2.0  # the policy's logits at initialisation: run with probability 0.88
PIXELS = 64  # the policy reads images averaged down to about this many pixels along each side
OWN = "own"  # the operating point at which the policy decides by its own probabilities


@dataclass
class SkipBlocksPolicy:
    """Blocks of a trained dense model that a policy drops, fine-tuned together with the policy.

    `width`: channels of the policy's first layer. `penalty`: the reward of a wrong answer,
    negative. `squeeze`: a above. `curriculum`: the share of training after which the policy
    decides about all blocks. Training skips as inference does, except where batch norms need the
    whole batch. The operating points are the policy's own decisions (p > 1/2) and
    `budgets`: shares of the blocks, met by a threshold that is found on held-out data.
    """

    compaction = "before every block the samples that run it are gathered; all are known at once"

    width: Annotated[int, Range(1)] = 16
    penalty: Annotated[float, Range(0)] = 5.0
    squeeze: Annotated[float, Range(gt=0.5, lt=1)] = 0.8
    curriculum: Annotated[float, Range(0, 1)] = 0.5
    budgets: list[Annotated[float, Range(gt=0, le=1)]] = field(
        default_factory=lambda: [0.85, 0.7, 0.55, 0.4]
    )
    train_share: Annotated[float, Range(0)] = 0.3
    open_is_dense = True  # every block runs

    def __post_init__(self) -> None:
        """Raises ValueError for a setting out of its range."""
        check_fields(self)

    def build(self, spec: TaskSpec, backbone: Backbone) -> nn.Module:
        """The untrained backbone with a policy."""
        return self.convert(backbone.build(spec), [])

    def convert(self, dense: Trunk, batches: Iterable[Batch]) -> nn.Module:
        """A copy of the trained trunk with a policy."""
        return PolicyModel(deepcopy(dense), self)

    def loss(self, model: Any, batch: Batch, criterion: Criterion, progress: float) -> Tensor:
        """Criterion of what the sampled policy ran, and the policy's own loss."""
        # ceil: from the first step on there is a block to decide about.
        num_free = math.ceil(model.num_gates * min(1.0, progress / max(self.curriculum, 1e-9)))
        first = model.num_gates - max(1, num_free)
        output = model(batch, first)
        decided = (output.stats[name][:, first:] for name in ("sampled_logits", "run"))
        greedy = partial(model, batch, first)
        reward = partial(reward_of, batch=batch, penalty=self.penalty)
        return criterion(output, batch) + self_critical_loss(
            model, output, greedy, reward, *decided
        )

    def calibrate(self, model: Any, batches: Iterable[Batch]) -> None:
        """Find the thresholds at which the shares `budgets` of all held-out blocks run."""
        logits = torch.cat([model.policy(batch).flatten() for batch in batches]).sort().values
        for i, budget in enumerate(self.budgets):
            num_left_out = len(logits) - round(budget * len(logits))
            # Halfway between two logits, so that rounding flips no decision.
            around = logits[max(0, num_left_out - 1) : num_left_out + 1]
            model.thresholds[i] = -torch.inf if num_left_out == 0 else around.mean()

    def points(self) -> list[Point]:
        """The policy's own decisions, then one operating point per budget."""
        return [{"budget": OWN}, *({"budget": budget} for budget in self.budgets)]

    def set_point(self, model: Any, point: Point) -> None:
        """Use a budget's threshold. Raises ValueError for a budget that is not among `budgets`."""
        budget = point["budget"]
        if budget == OWN:
            model.threshold.zero_()
        else:
            model.threshold.copy_(model.thresholds[self.budgets.index(float(budget))])


class PolicyModel(nn.Module):
    """`trunk` with a policy that decides which of the blocks that keep the state's shape run.

    Raises Unsupported where the policy would read later tokens, or nothing can be skipped.
    """

    threshold: Tensor
    thresholds: Tensor

    def __init__(self, trunk: Trunk, settings: SkipBlocksPolicy) -> None:
        super().__init__()
        self.trunk, self.squeeze = trunk, settings.squeeze
        _, self.costs = skippable(trunk)
        self.num_gates = len(self.costs)
        make = TokenPolicy if trunk.spec.kind == "tokens" else ImagePolicy
        self.policy = make(trunk.spec, settings.width, self.num_gates)
        self.register_buffer("threshold", torch.zeros(()))  # of the logits: 0 is p = 1/2
        self.register_buffer("thresholds", torch.zeros(len(settings.budgets)))
        # Batch norm's statistics are those of the whole batch: such a trunk masks in training.
        self.masks = any(isinstance(m, nn.BatchNorm2d) for m in trunk.modules())

    def forward(self, batch: Batch, first: int = 0) -> Output:
        """Blocks before the gate `first` always run: the policy does not decide about them yet.

        `stats` holds the logits that decisions were sampled from, and what ran, both [B, gates].
        """
        with region("router"):
            sampled_logits, run = self._decide_all(self.policy(batch), first)
        run_blocks = self._run_masked if self.training and self.masks else self._run_compacted
        state = run_blocks(self.trunk.stem(batch), run)
        stats = {"sampled_logits": sampled_logits, "run": run}
        return Output(self.trunk.head(state), stats=stats)

    def _decide_all(self, logits: Tensor, first: int) -> tuple[Tensor, Tensor]:
        """The logits that were sampled from, and what runs, both [B, gates]."""
        probability = logits.sigmoid()
        squeezed = self.squeeze * probability + (1 - self.squeeze) * (1 - probability)
        # Training samples, with probabilities of at most `squeeze`: every block is explored.
        sampled = torch.rand_like(squeezed) < squeezed if self.training else None
        own = logits > self.threshold if sampled is None else sampled
        own = own | (torch.arange(self.num_gates, device=own.device) < first)
        run = [
            decide(
                f"block{i}",
                axes=SAMPLES,
                probabilities=probability[:, gate],
                run=own[:, gate],
                cost=cost,
            )
            for gate, (i, cost) in enumerate(self.costs.items())
        ]
        return squeezed.logit(), torch.stack(run, 1)

    def _run_compacted(self, state: State, run: Tensor) -> State:
        """Every block on the samples that run it."""
        with region("dispatch"):
            # All at once, so that the device is waited for once and not before every block.
            order = dispatch.sort_by_group(run)
            counts = order.ends.diff(prepend=order.ends.new_zeros(1)).tolist()
            rows = dict(zip(self.costs, order.rows.split(counts), strict=True))
        for i, block in enumerate(self.trunk.blocks):
            if i not in rows:
                state = block(state)
                continue
            x = dispatch.replace_rows(run_on(block, state), state.x, rows[i])
            state = state.with_x(x)
        return state

    def _run_masked(self, state: State, run: Tensor) -> State:
        """Every block on all samples, its result kept for those that run it."""
        gates = dict(zip(self.costs, run.unbind(1), strict=True))
        for i, block in enumerate(self.trunk.blocks):
            if i not in gates:
                state = block(state)
                continue
            state = state.with_x(run_masked(block, state, gates[i]))
        return state


class ImagePolicy(nn.Module):
    """Three strided convolutions over a small copy of the image, and a logit per gate [B, gates].

    At 3x224x224 and the default width it takes 4 M MAC.
    """

    def __init__(self, spec: TaskSpec, width: int, num_gates: int) -> None:
        super().__init__()
        channels, *sides = spec.input_shape if spec.kind == "image" else (1, *spec.input_shape)
        self.factor = max(1, max(sides) // PIXELS)
        widths = (channels, width, 2 * width, 4 * width)
        self.layers = nn.Sequential()
        for inputs, outputs in pairwise(widths):
            self.layers.append(nn.Conv2d(inputs, outputs, 3, stride=2, padding=1))
            self.layers.append(nn.GroupNorm(1, outputs))  # batch norm would tie samples together
            self.layers.append(nn.ReLU())
        self.head = make_head(4 * width, num_gates)

    def forward(self, batch: Batch) -> Tensor:
        images = as_images(batch)
        if self.factor > 1:
            images = F.avg_pool2d(images, self.factor)
        logits: Tensor = self.head(self.layers(images).mean((2, 3)))
        return logits.float()  # probabilities and thresholds are too coarse in bf16


class TokenPolicy(nn.Module):
    """The mean of embeddings of its own, a hidden layer, and a logit per gate [B, gates]."""

    def __init__(self, spec: TaskSpec, width: int, num_gates: int) -> None:
        super().__init__()
        assert spec.vocab_size is not None  # the trunk has embedded the tokens
        self.embedding = nn.Embedding(spec.vocab_size, width)
        self.hidden = nn.Linear(width, 4 * width)
        self.head = make_head(4 * width, num_gates)

    def forward(self, batch: Batch) -> Tensor:
        mean = mean_token(State(self.embedding(batch.inputs), mask=batch.mask))  # [B, width]
        logits: Tensor = self.head(F.relu(self.hidden(mean)))
        return logits.float()


def make_head(width: int, num_gates: int) -> nn.Linear:
    """The policy's last layer: blocks mostly run at first, as in the dense model."""
    head = nn.Linear(width, num_gates)
    nn.init.constant_(head.bias, OPEN)
    return head


def reward_of(output: Output, batch: Batch, penalty: float) -> Tensor:
    """1 - (share of the blocks that ran)^2 where the class is right, -`penalty` elsewhere, [B]."""
    used = output.stats["run"].float().mean(1)
    correct = output.logits.argmax(-1) == batch.targets
    return torch.where(correct, 1 - used.square(), -penalty)
