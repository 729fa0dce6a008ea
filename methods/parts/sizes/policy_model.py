"""A trunk on images of the size that a small network picks for each.

The network sees the smallest size. In training every size runs, and the logits of the picked one
are kept by a hard Gumbel-softmax (Zhu et al. 2021, Dynamic Resolution Network).
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.routing import SAMPLE_CHOICES, decide, region
from bench.types import Batch, Output
from methods.parts.budget import Budget
from methods.parts.gates import one_of
from methods.parts.priced_choice import PricedChoice, run_by_choice
from methods.parts.sizes.image_sizes import Size, at_sizes
from methods.trunk.costs import layer_flops, part_flops
from methods.trunk.stem import as_images
from methods.trunk.trunk import Trunk


class PolicyModel(nn.Module):
    """`trunk` at every one of `resolutions`, one of which runs for each sample.

    `budgets`: as in `PricedChoice`; the first is what training aims at.
    """

    def __init__(
        self,
        trunk: Trunk,
        resolutions: Sequence[float],
        budgets: Sequence[float],
        temperature: float,
    ) -> None:
        super().__init__()
        self.trunk, self.temperature = trunk, temperature
        self.smaller = nn.ModuleList(at_sizes(trunk, resolutions)[:-1])
        channels = trunk.spec.input_shape[0] if trunk.spec.kind == "image" else 1
        self.policy = Policy(channels, self.views[0].stem.size, len(resolutions))
        self.costs, policy_flops = _trace(self)
        shares = [(cost + policy_flops) / self.costs[-1] for cost in self.costs]
        self.choice = PricedChoice(shares, budgets)
        self.budget = Budget(0.0, min(1.0, budgets[0]))

    @property
    def views(self) -> list[Any]:
        """The trunk at every size, the smallest first."""
        return [*self.smaller, self.trunk]

    def forward(self, batch: Batch) -> Output:
        """Logits of the size that runs; in training `stats["exits"]` holds all."""
        if self.training:
            return self._run_all(batch)
        with region("router"):
            if self.choice.fixed is None:
                logits = self.policy(batch).float()  # [B, G]
                run = self._decide(logits.softmax(-1), self.choice.best(logits))
            else:
                run = self.choice.everywhere(len(batch), batch.inputs.device)
                run = self._decide(run.float(), run)

        def at_size(number: int, rows: Tensor | None) -> Tensor:
            picked = batch if rows is None else batch.select(rows)
            logits: Tensor = self.views[number](picked).logits
            return logits

        return Output(run_by_choice(run, at_size))

    def _run_all(self, batch: Batch) -> Output:
        with region("router"):
            choice = one_of(
                self.policy(batch).float(),
                training=True,
                temperature=self.temperature,
                decide=self._decide,
            )
        exits = [trunk(batch).logits for trunk in self.views]
        # The value is 1 for what was picked and 0 for others, with the gradient of the softmax.
        logits = (torch.stack(exits, -1) * choice.value[:, None]).sum(-1)
        shares = choice.probability.new_tensor(self.choice.shares)
        expected = (choice.probability * shares).sum(-1).mean()
        return Output(logits, self.budget(expected), {"exits": exits})

    def _decide(self, probability: Tensor, run: Tensor) -> Tensor:
        return decide(
            "size",
            axes=SAMPLE_CHOICES,
            probabilities=probability,
            run=run,
            cost=self.costs,
            exclusive=True,
        )


class Policy(nn.Module):
    """Logits [B, G] of images at `size`: two small convolutions, the mean, one linear layer."""

    def __init__(self, channels: int, size: Size, num_choices: int) -> None:
        super().__init__()
        self.size = size
        self.layers = nn.Sequential(
            nn.Conv2d(channels, 8, 3, stride=2, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(8, 16, 3, stride=2, padding=1),
            nn.ReLU(inplace=True),
        )
        self.linear = nn.Linear(16, num_choices)

    def forward(self, batch: Batch) -> Tensor:
        maps = self.layers(F.adaptive_avg_pool2d(as_images(batch), self.size))
        return self.linear(maps.mean((2, 3)))


@torch.no_grad()
def _trace(model: PolicyModel) -> tuple[list[float], float]:
    """FLOPs (2 x MAC) of one sample at every size, and of the policy, from shapes alone."""
    shadow = deepcopy(model).to("meta").eval()
    blank = torch.zeros(1, *model.trunk.spec.input_shape, device="meta")
    with layer_flops(shadow.policy) as calls:
        shadow.policy(Batch(blank, blank))
    return [sum(part_flops(trunk, blank)) for trunk in shadow.views], float(sum(calls))
