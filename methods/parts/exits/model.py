"""A trunk with exit heads: runs everything in training, really leaves in inference.

    blocks ... head 0 -> continue? -> blocks ... head 1 -> continue? -> ... blocks, final head

In training every element runs to the end and every head gives logits (unless the harness replays
decisions: then what has left keeps its logits, and tokens their state). In inference the trunk is
driven block by block over what is left: each block is called once, on the remaining samples or
tokens, and never on an empty batch. During generation, what leaves still puts its keys and values
into the caches of the blocks that it does not run: later tokens attend to them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from bench import routing
from bench.types import Batch, Output
from methods.parts.exits.costs import ExitCosts
from methods.parts.exits.live_tokens import advance, fill, keep, last_tokens
from methods.parts.exits.thresholds import NEVER
from methods.trunk.cache import Cache
from methods.trunk.decoding import greedy
from methods.trunk.selection import Selection, select_running
from methods.trunk.state import State
from methods.trunk.trunk import Trunk


class ExitModel(nn.Module):
    """`trunk` with a head after every `every` blocks.

    The buffer `threshold` is the one in use, `thresholds` holds one per calibrated operating point;
    both are NEVER at first, so that an uncalibrated model runs to the end. Raises ValueError where
    no inner exit fits.
    """

    threshold: Tensor
    thresholds: Tensor

    def __init__(self, trunk: Trunk, every: int, num_points: int) -> None:
        super().__init__()
        depth = len(trunk.blocks)
        if not 1 <= every < depth:
            raise ValueError(f"every={every} leaves no exit before the end of {depth} blocks")
        self.ends = [*range(every, depth, every), depth]  # number of blocks run at each exit
        self.trunk = trunk
        # A decoder of pairs predicts position by position, too.
        self.per_token = trunk.spec.causal or trunk.spec.kind == "seq2seq"
        self.heads = nn.ModuleList(trunk.new_head(end) for end in self.ends[:-1])
        self._costs = ExitCosts(self)
        # Buffers, so that calibrated thresholds travel with the weights.
        self.register_buffer("threshold", torch.tensor(NEVER))
        self.register_buffer("thresholds", torch.full((num_points,), NEVER))

    def forward(self, batch: Batch, cache: Cache | None = None) -> Output:
        """Logits of the exit that each element took; in training `stats["exits"]` holds all.

        With a cache, `batch` holds the next tokens; logits are the last one's only, [B, 1, C].
        """
        if self.training:
            return self._run_masked(batch)
        if self.per_token:
            return self._run_tokens(batch, cache)
        return self._run_samples(batch)

    def generate(self, prompt: Batch, num_tokens: int) -> Iterator[Tensor]:
        """The likeliest next tokens, one by one; see `methods.trunk.decoding`."""
        return greedy(self, self.trunk.spec, prompt, num_tokens)

    def block_shares(self) -> Tensor:
        """Share of the blocks that have run at each exit, [exits]; the last is 1."""
        return torch.tensor(self.ends) / self.ends[-1]

    def stages(self) -> Iterator[tuple[Sequence[nn.Module], nn.Module]]:
        """The blocks up to each exit and the exit's head, in order."""
        blocks = list(self.trunk.blocks)
        heads = [*self.heads, self.trunk.head]
        for begin, end, head in zip([0, *self.ends[:-1]], self.ends, heads, strict=True):
            yield blocks[begin:end], head

    @torch.no_grad()
    def confidences(self, batch: Batch) -> Tensor:
        """Largest probability at each inner exit when everything runs, [exits - 1, elements]."""
        state, found = self.trunk.stem(batch), []
        for blocks, head in self.stages():
            if head is self.trunk.head:  # calibration needs the inner exits only
                break
            for block in blocks:
                state = block(state)
            sure, real = confidence(head(state)), state.routed
            found.append(sure.flatten() if real is None else sure[real])
        return torch.stack(found)

    def _run_masked(self, batch: Batch) -> Output:
        """Everything runs; what a replayed decision let leave keeps its logits.

        In a causal trunk also its state, to which later tokens still attend.
        """
        state = self.trunk.stem(batch)
        live: Tensor | None = None  # [B] or [B, T]; None: everything
        exits: list[Tensor] = []
        logits = torch.empty(0)
        for number, (blocks, head) in enumerate(self.stages()):
            for block in blocks:
                before, state = state.x, block(state)
                if live is not None and self.per_token:
                    state = replace(state, x=keep(live, state.x, before))
            with routing.region("exit_head"):
                exits.append(head(state))
            logits = exits[-1] if live is None else keep(live, exits[-1], logits)
            if head is self.trunk.head or (live is not None and not live.any()):
                continue  # nothing is left to decide about
            # Training's own decision is to run everything; a replay returns another tensor.
            run = torch.ones_like(exits[-1][..., 0], dtype=torch.bool)
            if state.routed is not None:  # a decoder's padding leaves at once
                run = run & state.routed
            could = state.routed if live is None else live
            chosen = self._decide(number, state, confidence(exits[-1].detach()), run, could)
            if chosen is not run:
                live = chosen if live is None else live & chosen
        return Output(logits, state.aux_loss, {"exits": exits})

    def _run_samples(self, batch: Batch) -> Output:
        """Whole samples leave; the batch is compacted to the others."""
        state, logits = self.trunk.stem(batch), torch.empty(0)
        for number, (blocks, head) in enumerate(self.stages()):
            for block in blocks:
                state = block(state)
            with routing.region("exit_head"):
                found = head(state)  # [n, C]
            with routing.region("combine"):
                # Written at every exit: later exits overwrite the samples that continue.
                index = state.index
                logits = found if index is None else logits.index_copy(0, index, found)
            if head is self.trunk.head:
                break
            with routing.region("router"):
                sure = confidence(found)
                run = self._decide(number, state, sure, sure < self.threshold)
            with routing.region("dispatch"):
                rows = run.nonzero().flatten()  # [n]
                if len(rows) == 0:
                    break
                if len(rows) < len(run):  # with all left, a copy would be wasted
                    state = state.select(rows)
        return Output(logits)

    def _run_tokens(self, batch: Batch, cache: Cache | None) -> Output:
        """Tokens leave and stay visible; samples without a token left are compacted away."""
        state = self.trunk.begin(batch, cache)
        live = torch.ones(state.x.shape[:2], dtype=torch.bool, device=state.x.device)
        logits = torch.empty(0)
        for number, (blocks, head) in enumerate(self.stages()):
            querying = select_running(live)
            state, packed = advance(blocks, state, querying)
            if head is self.trunk.head and cache is not None:
                querying, packed = last_tokens(live, state)
            with routing.region("exit_head"):
                found = head(packed)[0]  # [N, C]
            with routing.region("combine"):
                logits = fill(logits, state, querying, found)
            if head is self.trunk.head:
                break
            with routing.region("router"):
                sure = self._spread(confidence(found), querying, live)
                live = live if state.routed is None else live & state.routed  # padding leaves
                run = live & (sure < self.threshold)
                live = live & self._decide(number, state, sure, run, live)
            with routing.region("dispatch"):
                state, live = self._compact(number, state, live)
            if len(live) == 0:
                break
        return Output(logits if cache is None else logits[:, -1:])

    @staticmethod
    def _spread(confidences: Tensor, querying: Selection, live: Tensor) -> Tensor:
        """`confidences` [N] of the querying tokens as [n, T]; 1 where a token has left."""
        sure = torch.ones_like(live, dtype=confidences.dtype)
        return sure.flatten().index_copy(0, querying.places, confidences).view_as(live)

    def _compact(self, number: int, state: State, live: Tensor) -> tuple[State, Tensor]:
        """`state` and `live` [n, T] without the samples of which no token continues."""
        left = live.any(1)
        rows = left.nonzero().flatten()
        if len(rows) == len(live):
            return state, live
        if state.cache is not None:
            self._remember(number, state.select((~left).nonzero().flatten()))
        if len(rows) == 0:  # nothing runs on the state any more: nothing to gather
            return state, live[:0]
        return state.select(rows), live.index_select(0, rows)

    def _remember(self, number: int, state: State) -> None:
        """Store keys and values of samples that left at exit `number`, for all blocks above it.

        From their last state, as CALM does: later tokens find them without those blocks running.
        """
        blocks: list[Any] = list(self.trunk.blocks)
        for block in blocks[self.ends[number] :]:
            block.remember(state)

    def _decide(
        self, number: int, state: State, sure: Tensor, run: Tensor, live: Tensor | None = None
    ) -> Tensor:
        """Announce what continues after exit `number`, if anything reads it; returns what to obey.

        `live`, bool like `run`: what has not left at an earlier exit; None: everything.
        """
        if not routing.is_read():
            return run
        return routing.decide(
            f"exit{number}",
            axes=routing.TOKENS if run.dim() == 2 else routing.SAMPLES,
            probabilities=1 - sure,
            run=run,
            cost=self._costs.after(number, state.x.shape[1], state.cache, state.memory),
            index=state.index,
            eligible=live,
        )


def confidence(logits: Tensor) -> Tensor:
    """The largest softmax probability, [..., C] -> [...]."""
    return logits.softmax(-1).amax(-1)
