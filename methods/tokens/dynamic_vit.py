"""DynamicViT: predictors drop tokens for good, stage by stage.

Rao et al. 2021, "DynamicViT: Efficient Vision Transformers with Dynamic Token Sparsification". A
predictor before each of S stages scores the tokens that are left: from a token's own features, and
from the mean over all that are left,

    z = gelu(W norm(x)),    score_i = mlp([z_i's first half, mean_j (z_j's second half)]).

In training every token is kept or dropped by a Gumbel sample of its score, times what earlier
stages kept; a dropped token is computed and hidden: exp(q_i k_j) is multiplied by 0 unless i = j.
Inference keeps the floor(N rho^s) highest scores after stage s, and gathers them. The loss is

    criterion + 2 mean_s (share kept_s - rho^s)^2 + 0.5 KL(teacher, model) + 0.5 MSE(tokens kept)

with the dense start as teacher. A token is chosen among all of its sample: not for causal models.
"""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench import routing
from bench.types import Backbone, Batch, Criterion, Output, Point, Range, TaskSpec, Unsupported
from methods.parts.gates import binary
from methods.parts.tokens.class_token import eligible_tokens, pairs_with_class, with_class
from methods.parts.tokens.predictor import (
    Predictor,
    as_frame,
    keep_top,
    score_equal,
    score_kept,
    select_equal,
    top_tokens,
    weighed_mean,
)
from methods.parts.tokens.running_tokens import run_blocks, run_selected
from methods.trunk.costs import linear_flops
from methods.trunk.gated_attention import AttentionGates, takes_gates
from methods.trunk.selection import Selection, select_running
from methods.trunk.state import State
from methods.trunk.trunk import Trunk


@dataclass
class DynamicViT:
    """`num_stages` predictors at equal distances, of 12 blocks at 3, 6 and 9; training masks.

    `keep_rate`: the share of tokens rho that each stage keeps of those before it; the operating
    points are this one and the others in `keep_rates`. `ratio_weight`, `distill_weight` and
    `token_weight` are those of the loss, the last two for the teacher's logits and tokens; a model
    that is built from scratch has no teacher. `trunk_lr_share`: the learning rate of all but the
    predictors, as a share of the recipe's. With the paper's 0.01, meant for 30 epochs, a trunk does
    not learn within a few hundred steps to do without the tokens that are dropped.
    """

    compaction = "the same number of tokens of every sample, gathered at every stage"

    keep_rate: Annotated[float, Range(gt=0, le=1)] = 0.7
    keep_rates: list[Annotated[float, Range(gt=0, le=1)]] = field(
        default_factory=lambda: [1.0, 0.9, 0.8, 0.6, 0.5, 0.4, 0.3]
    )
    num_stages: Annotated[int, Range(1)] = 3
    ratio_weight: Annotated[float, Range(0)] = 2.0
    distill_weight: Annotated[float, Range(0)] = 0.5
    token_weight: Annotated[float, Range(0)] = 0.5
    trunk_lr_share: Annotated[float, Range(0, 1)] = 1.0
    train_share: Annotated[float, Range(0)] = 0.1
    open_is_dense = True  # no token is dropped

    def build(self, spec: TaskSpec, backbone: Backbone) -> PrunedTrunk:
        """The untrained backbone with predictors, without a teacher."""
        return PrunedTrunk(backbone.build(spec), self.keep_rate, self.num_stages)

    def convert(self, dense: Trunk, batches: Iterable[Batch]) -> PrunedTrunk:
        """A copy of the trained trunk with predictors; another copy is its teacher."""
        model = PrunedTrunk(deepcopy(dense), self.keep_rate, self.num_stages)
        model.teacher.append(deepcopy(dense).eval().requires_grad_(False))
        return model

    def loss(
        self, model: PrunedTrunk, batch: Batch, criterion: Criterion, progress: float
    ) -> Tensor:
        """Criterion, shares kept against their targets, and distance to the teacher."""
        output = model(batch)
        loss = criterion(output, batch) + output.aux_loss
        targets = torch.tensor(
            [self.keep_rate ** (s + 1) for s in range(self.num_stages)], device=loss.device
        )
        kept = torch.stack(output.stats["kept"], -1)  # [B, S] shares
        loss = loss + self.ratio_weight * (kept - targets).square().mean()
        for teacher in model.teacher:
            loss = loss + self._distance(output, teacher, batch)
        return loss

    def _distance(self, output: Output, teacher: Trunk, batch: Batch) -> Tensor:
        """The weighted distances to the teacher's logits and to its last tokens, where kept."""
        with torch.no_grad():
            state = teacher.to(output.logits.device).stem(batch)
            for block in teacher.blocks:
                state = block(state)
            wanted = teacher.head(state).log_softmax(-1)
        found = output.logits.log_softmax(-1)
        logits = F.kl_div(found, wanted, reduction="batchmean", log_target=True)
        live = output.stats["live"][..., None]  # [B, T, 1] bool
        gap = (output.stats["x"] - state.x).square() * live
        tokens = gap.mean(-1).sum() / live.sum().clamp_min(1)
        return self.distill_weight * logits + self.token_weight * tokens

    def param_groups(self, model: PrunedTrunk, lr: float) -> list[dict[str, Any]]:
        """The predictors at the recipe's learning rate, the trunk at a share of it."""
        # Without a teacher's weights to keep, everything has to learn.
        share = self.trunk_lr_share if model.teacher else 1.0
        return [
            {"params": list(model.predictors.parameters()), "lr": lr},
            {"params": list(model.trunk.parameters()), "lr": lr * share},
        ]

    def calibrate(self, model: PrunedTrunk, batches: Iterable[Batch]) -> None:
        """Let the teacher go: only training needs it, and it would count as memory."""
        model.teacher.clear()

    def points(self) -> list[Point]:
        """One operating point per keep rate, the default first."""
        others = (rate for rate in self.keep_rates if rate != self.keep_rate)
        return [{"keep_rate": rate} for rate in (self.keep_rate, *others)]

    def set_point(self, model: PrunedTrunk, point: Point) -> None:
        """Keep the share `point["keep_rate"]` of the tokens at every stage."""
        model.keep_rate = float(point["keep_rate"])


class PrunedTrunk(nn.Module):
    """`trunk` with a predictor before each of `num_stages` stages.

    The frame stays [B, T]: tokens are gathered for a stage and put back, and what was dropped keeps
    its state, which nothing reads. Raises ValueError for more stages than blocks allow, Unsupported
    where there are no tokens to choose from.
    """

    def __init__(self, trunk: Trunk, keep_rate: float, num_stages: int) -> None:
        super().__init__()
        if not trunk.tokens:
            raise Unsupported("dynamic_vit drops tokens; this trunk works on feature maps")
        if trunk.spec.causal or trunk.spec.kind == "seq2seq":
            raise Unsupported("dynamic_vit chooses among all tokens of a sample: not causal")
        if not takes_gates(trunk.blocks):
            raise Unsupported("dynamic_vit trains by hiding keys, which this attention cannot")
        depth = len(trunk.blocks)
        if num_stages >= depth:
            raise ValueError(
                f"num_stages={num_stages} needs more than {num_stages} blocks, and there are "
                f"{depth}: choose at most {depth - 1}"
            )
        self.trunk, self.keep_rate = trunk, keep_rate
        starts = [depth * (s + 1) // (num_stages + 1) for s in range(num_stages)]
        self.bounds = [0, *starts, depth]
        self.predictors = nn.ModuleList(Predictor(trunk.dim) for _ in starts)
        self.teacher: list[Trunk] = []  # in a list: no part of state_dict and parameters
        self._costs = self._stage_costs()

    def forward(self, batch: Batch) -> Output:
        """In training `stats` has shares kept [B] of each stage, the tokens and which are live."""
        state: State = self.trunk.stem(batch)
        for block in self._blocks(0):
            state = block(state)
        return self._run_masked(state) if self.training else self._run_gathered(state)

    def _blocks(self, stage: int) -> list[Any]:
        """The blocks before the first predictor (0), or before the one after `stage` predictors."""
        return list(self.trunk.blocks)[self.bounds[stage] : self.bounds[stage + 1]]

    def _stage_costs(self) -> list[routing.Cost]:
        """What a token kept for a stage costs: in its blocks, and in the next predictor."""
        costs, found = self.trunk.block_costs(), []
        for stage in range(1, len(self.bounds) - 1):
            blocks = costs[self.bounds[stage] : self.bounds[stage + 1]]
            scored = sum(map(linear_flops, self.predictors[stage : stage + 1]))
            element = sum(block.element for block in blocks) + scored  # type: ignore[misc]
            found.append(routing.Cost(element, pair=sum(block.pair for block in blocks)))
        return found

    def _decide(self, stage: int, live: Tensor | None, probability: Tensor, run: Tensor) -> Tensor:
        """What stage number `stage` keeps of the `live` tokens (None: of all), [B, T]."""
        return routing.decide(
            f"stage{stage}",
            axes=routing.TOKENS,
            probabilities=probability,
            run=run,
            cost=self._costs[stage],
            eligible=live,
            past=lambda: pairs_with_class(run, self.trunk.class_token),
        )

    # Training: everything is computed

    def _run_masked(self, state: State) -> Output:
        """Every token through every block; those that were dropped are hidden from the others."""
        class_token = self.trunk.class_token
        real = torch.ones(state.x.shape[:2], dtype=torch.bool, device=state.x.device)
        real = real if state.mask is None else state.mask
        eligible = eligible_tokens(state, class_token)
        live = real if eligible is None else eligible
        policy, total = live.float(), live.sum(1).clamp_min(1)  # [B, T], [B]
        kept: list[Tensor] = []
        for stage, predictor in enumerate(self.predictors):
            with routing.region("router"):
                logits = predictor(state.x, partial(weighed_mean, policy)).float()
                gate = binary(logits, training=True, decide=partial(self._sample, stage, live))
                policy, live = policy * gate.value, gate.run
                kept.append(policy.sum(1) / total)
                keys = with_class(policy, class_token)
            for block in self._blocks(stage + 1):
                state = block.feed(block.mix(state, gates=AttentionGates(keys=keys)))
        # As sizes, so that a mean over what is kept has a gradient for what is not.
        found = self.trunk.head(state.changed(sizes=keys.to(state.x.dtype)))
        live = with_class(live, class_token) & real
        return Output(found, state.aux_loss, {"kept": kept, "x": state.x, "live": live})

    def _sample(self, stage: int, live: Tensor, probability: Tensor, run: Tensor) -> Tensor:
        """What is kept: what the scores' sample keeps of what earlier stages kept."""
        return self._decide(stage, live, probability, run & live)

    # Inference: what was dropped is not computed

    def _run_gathered(self, state: State) -> Output:
        """Only the tokens kept go through a stage's blocks, and only they are scored again."""
        class_token = self.trunk.class_token
        live, first = eligible_tokens(state, class_token), int(class_token)
        num_tokens: int | Tensor = state.x.shape[1] - first  # of a sample: N
        if state.mask is None or live is None:
            tokens = torch.arange(first, state.x.shape[1], device=state.x.device)
            kept = select_equal(tokens.expand(len(state.x), -1), state)
        else:
            num_tokens, kept = live.sum(1), select_running(live)
        state = state.changed(mask=None)  # padding is never kept
        for stage in range(len(self.predictors)):
            with routing.region("router"):
                live, top = self._choose(stage, state, live, kept, num_tokens)
            if top is not None:
                kept = select_equal(top, state)
                running = kept if not first else select_equal(F.pad(top, (1, 0)), state)
                state = run_selected(self._blocks(stage + 1), state, running)
            else:  # ragged: padding, or decisions that are not the model's own
                assert live is not None
                kept = select_running(live)
                state = run_blocks(self._blocks(stage + 1), state, with_class(live, class_token))
        live = as_frame(kept.tokens, state.x) if live is None else live
        state = state.changed(mask=with_class(live, class_token))  # what a mean is over
        return Output(self.trunk.head(state), state.aux_loss)

    def _choose(
        self,
        stage: int,
        state: State,
        live: Tensor | None,
        kept: Selection,
        num_tokens: int | Tensor,
    ) -> tuple[Tensor | None, Tensor | None]:
        """What of the `live` a stage keeps, bool [B, T]; as tokens [B, K] if those are its own.

        The first is None where nothing reads it, the second where samples keep different numbers.
        """
        predictor, share = self.predictors[stage], self.keep_rate ** (stage + 1)
        if kept.valid is not None or not isinstance(num_tokens, int) or not len(kept.places):
            logits = score_kept(predictor, state.x, kept)
            own = keep_top(logits, num_tokens, share)
            return self._decide(stage, live, logits.sigmoid(), own), None
        scores = score_equal(predictor, state.x, kept)  # [B, K]
        top = top_tokens(scores, kept.tokens, num_tokens, share)
        if not routing.is_read():
            return None, top
        logits = scores.new_full(state.x.shape[:2], -torch.inf).scatter(1, kept.tokens, scores)
        own = as_frame(top, state.x)
        run = self._decide(stage, live, logits.sigmoid(), own)
        return run, top if run is own else None
