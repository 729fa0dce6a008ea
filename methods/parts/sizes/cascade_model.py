"""A trunk on growing images, until it is sure of the answer.

    smallest image -> logits -> sure? -> the next size, reading the last features -> logits -> ...

In inference the samples that go on are compacted after every size. In training all samples run at
every size (unless decisions are replayed: what has left then keeps its logits).
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from bench.routing import SAMPLES, decide, region
from bench.types import Batch, Output
from methods.parts.exits.live_tokens import keep
from methods.parts.exits.model import confidence
from methods.parts.exits.thresholds import NEVER
from methods.parts.sizes.feature_reuse import MapReuse, TokenReuse
from methods.parts.sizes.image_sizes import at_sizes, token_grid
from methods.trunk.conv import ConvTrunk
from methods.trunk.costs import attention_width, layer_flops, part_flops
from methods.trunk.state import State
from methods.trunk.trunk import Trunk


class CascadeModel(nn.Module):
    """`trunk` at every one of `resolutions`, the last of which is 1.

    `reuse_width`: channels of the earlier pass's features that a later one reads, 0 for none. The
    buffer `threshold` is the one in use, `thresholds` holds one per calibrated operating point.
    """

    threshold: Tensor
    thresholds: Tensor

    def __init__(
        self, trunk: Trunk, resolutions: Sequence[float], reuse_width: int, num_points: int
    ) -> None:
        super().__init__()
        self.trunk = trunk
        self.smaller = nn.ModuleList(at_sizes(trunk, resolutions)[:-1])
        self.reuse = nn.ModuleList()
        if reuse_width:
            self.reuse.extend(_reuses(trunk, self.views, reuse_width))
        self.costs = _trace(self)  # FLOPs of every pass, with what it reads
        blank = torch.zeros(1, *trunk.spec.input_shape, device="meta")
        self.dense_flops = sum(part_flops(deepcopy(trunk).to("meta").eval(), blank))
        self.register_buffer("threshold", torch.tensor(NEVER))
        self.register_buffer("thresholds", torch.full((num_points,), NEVER))

    @property
    def views(self) -> list[Any]:
        """The trunk at every size, the smallest first."""
        return [*self.smaller, self.trunk]

    def shares(self) -> Tensor:
        """FLOPs up to every exit, as shares of the dense model's, [sizes]."""
        return torch.tensor(self.costs).cumsum(0) / self.dense_flops

    def forward(self, batch: Batch) -> Output:
        """Logits of the size that each sample needed; in training `stats["exits"]` holds all."""
        return self._run_all(batch) if self.training else self._run_until_sure(batch)

    @torch.no_grad()
    def confidences(self, batch: Batch) -> Tensor:
        """Largest probability at each size but the last when everything runs, [sizes - 1, B]."""
        state, found = None, []
        for number, trunk in enumerate(self.views[:-1]):
            state = self._pass(number, batch, state)
            found.append(confidence(trunk.head(state)))
        return torch.stack(found)

    def _pass(self, number: int, batch: Batch, earlier: State | None) -> State:
        """The last state of the pass at one size, which reads that of the pass before."""
        trunk = self.views[number]
        state: State = trunk.stem(batch)
        reuse: Any = self.reuse[number - 1] if earlier is not None and len(self.reuse) else None
        features = None if reuse is None else reuse.read(earlier)
        for place, block in enumerate(trunk.blocks):
            if reuse is not None:
                state = reuse.add(place, state, features)
            state = block(state)
        return state

    def _run_all(self, batch: Batch) -> Output:
        live: Tensor | None = None  # [B]; None: all samples
        state: State | None = None
        exits: list[Tensor] = []
        logits = torch.empty(0)
        for number, trunk in enumerate(self.views):
            state = self._pass(number, batch, state)
            with region("exit_head"):
                exits.append(trunk.head(state))
            logits = exits[-1] if live is None else keep(live, exits[-1], logits)
            if trunk is self.trunk or (live is not None and not live.any()):
                continue  # nothing is left to decide about
            # Training's own decision is to run everything; a replay returns another tensor.
            run = torch.ones_like(exits[-1][:, 0], dtype=torch.bool)
            chosen = self._decide(number, confidence(exits[-1].detach()), run, None, live)
            if chosen is not run:
                live = chosen if live is None else live & chosen
        return Output(logits, 0.0, {"exits": exits})

    def _run_until_sure(self, batch: Batch) -> Output:
        index, state, logits = None, None, torch.empty(0)
        for number, trunk in enumerate(self.views):
            state = self._pass(number, batch, state)
            with region("exit_head"):
                found = trunk.head(state)  # [n, C]
            with region("combine"):
                # Later passes overwrite the samples that go on.
                logits = found if index is None else logits.index_copy(0, index, found)
            if trunk is self.trunk:
                break
            with region("router"):
                sure = confidence(found)
                run = self._decide(number, sure, sure < self.threshold, index)
            with region("dispatch"):
                rows = run.nonzero().flatten()  # [n]
                if len(rows) == 0:
                    break
                if len(rows) < len(run):  # with all left, a copy would be wasted
                    batch, state = batch.select(rows), state.select(rows)
                    index = rows if index is None else index.index_select(0, rows)
        return Output(logits)

    def _decide(
        self,
        number: int,
        sure: Tensor,
        run: Tensor,
        index: Tensor | None,
        live: Tensor | None = None,
    ) -> Tensor:
        """Announce which samples go on after pass `number`; returns the decision to obey."""
        return decide(
            f"size{number}",
            axes=SAMPLES,
            probabilities=1 - sure,
            run=run,
            cost=self.costs[number + 1],
            index=index,
            eligible=live,
        )


def _reuses(trunk: Trunk, views: Sequence[Any], width: int) -> list[nn.Module]:
    """What every pass but the first reads of the one before."""
    if not trunk.tokens:
        assert isinstance(trunk, ConvTrunk)
        return [MapReuse(trunk.widths, width) for _ in views[1:]]
    grids = [token_grid(view.stem, trunk.spec) for view in views]
    depth = len(trunk.blocks)
    return [TokenReuse(trunk.dim, depth, width, old, new) for old, new in pairwise(grids)]


@torch.no_grad()
def _trace(model: CascadeModel) -> list[float]:
    """FLOPs (2 x MAC) of every pass for one sample, its head included, from shapes alone."""
    shadow = deepcopy(model).to("meta").eval()
    blank = torch.zeros(1, *model.trunk.spec.input_shape, device="meta")
    state, found = None, list[float]()
    with layer_flops(shadow) as calls:
        for number, trunk in enumerate(shadow.views):
            calls.clear()
            state = shadow._pass(number, Batch(blank, blank), state)
            trunk.head(state)
            # Attention's products are no layers.
            pairs = sum(4 * attention_width(block) for block in trunk.blocks)
            found.append(float(sum(calls) + pairs * state.x.shape[1] ** 2))
    return found
