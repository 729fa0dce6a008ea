"""A trunk at several widths: every one in training, the chosen one of each sample in inference.

    narrowest network: stem, first blocks -> gate -> one width for each sample
                                               narrowest: continues there
                                               others: begin again, grouped by width

What the gate reads is computed for every sample. Where the stem is shared by all widths, as in a
transformer, only the first blocks are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from bench.routing import SAMPLE_CHOICES, decide, region
from bench.types import Batch, Output, Unsupported
from methods.parts.priced_choice import PricedChoice, keep_chosen, run_by_choice
from methods.parts.widths.costs import WidthCosts
from methods.parts.widths.narrow_trunk import narrow
from methods.trunk.cache import Cache
from methods.trunk.costs import linear_flops
from methods.trunk.head import pooled
from methods.trunk.state import State
from methods.trunk.trunk import Trunk


class Settings(Protocol):
    """What the model reads of `methods.branches.slimmable.Slimmable`."""

    widths: list[float]
    gate: bool
    gate_depth: int
    num_random: int


class SlimModel(nn.Module):
    """`trunk` at each of `settings.widths`; narrower networks share its weights.

    `budgets`: the gate's operating points. Raises Unsupported where the trunk cannot be slimmed, or
    a gate would read later tokens; ValueError where the gate comes too late.
    """

    def __init__(self, trunk: Trunk, settings: Settings, budgets: Sequence[float]) -> None:
        super().__init__()
        _check(trunk, settings)
        self.trunk, self.num_random = trunk, settings.num_random
        self.narrow = nn.ModuleList(narrow(trunk, width) for width in settings.widths[:-1])
        self.depth = settings.gate_depth  # blocks of the narrowest network that the gate reads
        self.gate, shares = None, [1.0] * len(settings.widths)
        if settings.gate:
            self._costs = WidthCosts(self, self.depth)
            self.gate = make_gate(self._costs.num_features, len(shares))
            shares = self._costs.shares(linear_flops(self.gate))
        self.choice = PricedChoice(shares, budgets if settings.gate else [])
        self.choice.fixed = None if settings.gate else len(shares) - 1

    @property
    def views(self) -> list[Any]:
        """The trunk at every width, the narrowest first."""
        return [*self.narrow, self.trunk]

    def forward(self, batch: Batch, cache: Cache | None = None) -> Output:
        """Logits of each sample's width; in training `stats["widths"]` holds those that ran.

        With a cache (without a gate), `batch` holds the next tokens.
        """
        if self.training:
            return self._run_widths(batch)
        if self.gate is None:
            output: Output = self._fixed_view()(batch, cache)
            return output
        return self._run_chosen(batch)

    def generate(self, prompt: Batch, num_tokens: int) -> Iterator[Tensor]:
        """The likeliest next tokens at the fixed width, one by one."""
        tokens: Iterator[Tensor] = self._fixed_view().generate(prompt, num_tokens)
        return tokens

    @torch.no_grad()
    def beliefs(self, batch: Batch) -> Tensor:
        """The gate's logits, [B, G]."""
        assert self.gate is not None
        belief: Tensor = self.gate(pooled(self._look(self.views[0].stem(batch))))
        return belief

    def _fixed_view(self) -> Any:
        assert self.choice.fixed is not None
        return self.views[self.choice.fixed]

    def _look(self, state: State) -> State:
        """The narrowest network's `state` after the blocks whose result the gate reads."""
        for block in self.views[0].blocks[: self.depth]:
            state = block(state)
        return state

    def _run_chosen(self, batch: Batch) -> Output:
        """Samples grouped by width; a fixed width needs no look."""
        start: Any = None
        if self.choice.fixed is None or self.trunk.tokens:  # of maps, each width has its own
            start = self.views[0].stem(batch)
        look = self._look(start) if self.choice.fixed is None else None
        with region("router"):
            run, _ = self._decide(batch, start, look)
        return Output(
            run_by_choice(run, lambda g, rows: self._run_width(g, batch, start, look, rows))
        )

    def _run_width(
        self,
        number: int,
        batch: Batch,
        start: State | None,
        look: State | None,
        rows: Tensor | None = None,
    ) -> Tensor:
        """Logits [n, C] of the samples `rows` (None: all) at one width.

        `start`, `look`: the states of all samples behind the narrowest network's stem and its first
        blocks, None where they have not run.
        """
        trunk, first = self.views[number], 0
        if number == 0 and look is not None:
            state, first = look, self.depth
        elif start is not None and trunk.stem is self.views[0].stem:
            state = start
        else:
            state, rows = trunk.stem(batch if rows is None else batch.select(rows)), None
        state = state if rows is None else state.select(rows)
        for block in trunk.blocks[first:]:
            state = block(state)
        logits: Tensor = trunk.head(state)
        return logits

    def _run_widths(self, batch: Batch) -> Output:
        """The sampled widths and the chosen ones on all samples; each sample keeps its own."""
        start = self.views[0].stem(batch)
        look = self._look(start)
        found = {0: self._run_width(0, batch, start, look)}
        if self.gate is None:
            fixed = self.choice.fixed or 0
            for number in self._sampled([fixed]):
                found[number] = self._run_width(number, batch, start, look)
            return Output(found[fixed], 0.0, {"widths": found})
        with region("router"):
            # Detached: the gate learns to read the network, which does not learn to be read.
            run, belief = self._decide(batch, start, look.with_x(look.x.detach()))
        for number in self._sampled(run.any(0).nonzero()[:, 0].tolist()):
            found[number] = self._run_width(number, batch, start, look)
        return Output(keep_chosen(run, found), 0.0, {"widths": found, "gate": belief})

    def _sampled(self, needed: list[int]) -> list[int]:
        """Widths beside the narrowest that a training step runs: the sandwich, and `needed`."""
        last = len(self.narrow)
        between = torch.randperm(last - 1)[: self.num_random] + 1
        return sorted({last, *between.tolist(), *needed} - {0})

    def _decide(
        self, batch: Batch, start: State | None, look: State | None
    ) -> tuple[Tensor, Tensor | None]:
        """The width of every sample, bool [B, G], and the gate's logits if it has looked."""
        assert self.gate is not None
        belief = None if look is None else self.gate(pooled(look)).float()  # [B, G]
        if self.choice.fixed is None:
            assert belief is not None
            run, probability = self.choice.best(belief), belief.softmax(-1)
        else:
            run = self.choice.everywhere(len(batch), batch.inputs.device)
            probability = run.float()
        cost = self._costs.of_sample(
            start if self.trunk.tokens else None, looked=self.choice.fixed is None
        )
        obeyed = decide(
            "width",
            axes=SAMPLE_CHOICES,
            probabilities=probability,
            run=run,
            cost=cost,
            exclusive=True,
        )
        return obeyed, belief


def make_gate(num_features: int, num_choices: int) -> nn.Module:
    """A sample's features [B, num_features] -> logits [B, num_choices]."""
    # 16 hidden units: a gate must cost next to nothing beside the narrowest network.
    return nn.Sequential(nn.Linear(num_features, 16), nn.ReLU(), nn.Linear(16, num_choices))


def _check(trunk: Trunk, settings: Settings) -> None:
    """Raises Unsupported or ValueError where a gate does not fit the trunk."""
    if not settings.gate:
        return
    if trunk.spec.causal or trunk.spec.kind == "seq2seq":
        raise Unsupported("a sample's gate reads all of its tokens: not causal (gate=false works)")
    if settings.gate_depth >= len(trunk.blocks):
        raise ValueError(
            f"gate_depth={settings.gate_depth} leaves none of {len(trunk.blocks)} blocks to choose"
            " a width for"
        )
