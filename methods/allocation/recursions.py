"""Mixture-of-Recursions: shared blocks run up to R times; a router decides how often, per token.

Bae et al. 2025, "Mixture-of-Recursions: Learning Dynamic Recursive Depths for Adaptive Token-Level
Computation". The first and the last block have weights of their own; between them one group of
blocks f runs R times ("middle cycle"). Two routers:

    expert choice   before recursion r = 0, 1, ..., of the tokens that are left those with the
                    highest scores s = w_r x go on, (R - r) / R of all; x <- x + g (f(x) - x),
                    g = 2 sigmoid(s)
    token choice    after the first block p = softmax(W x) over depths; a token runs
                    argmax p of them, and leaves with x^0 + g (x - x^0), g = R p of its depth

g is 1 for a router of zeros (the paper's scale differs), and through g the router learns. Tokens
that run a recursion attend to one another only, and with a cache to the earlier ones that ran it
(recursion-wise caching); the others pass unchanged.

The highest scores of a sequence depend on later tokens. In decoders they are therefore used in
training only, where a loss teaches the scores to be positive for what goes on; at inference a score
must exceed a threshold, which is a quantile found on held-out batches.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

from bench.types import Backbone, Batch, OneOf, Point, Range, TaskSpec
from methods.parts.allocation.recursive_trunk import LossWeights, RecursiveTrunk
from methods.parts.ranges import counts_up_to

__all__ = ["Recursions", "RecursiveTrunk"]


@dataclass
class Recursions:
    """Trained from scratch; every pass skips, in training too.

    `router`: expert or token choice. `group`: blocks that are repeated together. `num_recursions`:
    R; with the default a token runs 2 + 4 blocks at most, the depth of the default transformer.
    `imitation_weight`: of the loss that teaches a decoder's scores, `balance_weight`: of the load
    balance over depths, for token choice. An operating point is the largest number of recursions
    that a token may run.
    """

    compaction = "in every recursion the tokens that run it are gathered"

    router: Annotated[str, OneOf("expert", "token")] = "expert"
    group: Annotated[int, Range(1)] = 1
    num_recursions: Annotated[int, Range(2)] = 4
    imitation_weight: Annotated[float, Range(0)] = 0.1
    balance_weight: Annotated[float, Range(0)] = 0.1

    def build(self, spec: TaskSpec, backbone: Backbone) -> RecursiveTrunk:
        """The untrained backbone, its inner blocks replaced by one group."""
        return RecursiveTrunk(
            backbone.build(spec),
            self.group,
            self.num_recursions,
            by_experts=self.router == "expert",
            weights=LossWeights(self.imitation_weight, self.balance_weight),
        )

    def calibrate(self, model: RecursiveTrunk, batches: Iterable[Batch]) -> None:
        """In a decoder with expert choice, find the thresholds that let each share go on."""
        if self.router == "expert" and model.causal:
            model.fit_thresholds(list(batches))
        self.set_point(model, self.points()[0])

    def points(self) -> list[Point]:
        """One operating point per number of recursions, all of them first."""
        counts = counts_up_to(self.num_recursions, self.num_recursions)
        return [{"recursions": count} for count in counts]

    def set_point(self, model: RecursiveTrunk, point: Point) -> None:
        """Run at most `point["recursions"]` recursions on a token from now on."""
        model.limit.fill_(int(point["recursions"]))
