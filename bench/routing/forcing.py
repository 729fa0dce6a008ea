"""Forcing gates: all open, all closed, or a random choice of the same budget."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

from bench.routing.decisions import Decision
from bench.routing.replay import Choose, override

if TYPE_CHECKING:
    from torch import Generator, Tensor

Force = Literal["open", "closed", "random"]


@contextmanager
def force(
    how: Force, *, share: float | None = None, generator: Generator | None = None
) -> Iterator[None]:
    """Make every gate run all (`open`), none (`closed`) or a random choice.

    Where exactly one choice runs, open takes the most expensive and closed the cheapest. Random
    keeps the budget among the eligible elements: each row's own number of running elements, each
    choice's number of elements where choices are exclusive or steps nested; with `share`, each
    element runs with that probability (of steps, the first ones run, as many as would).
    """
    with override(_force_all(how, share, generator)):
        yield


def _force_all(how: Force, share: float | None, generator: Generator | None) -> Choose:
    import torch  # not at the top: reading records imports this package without torch

    def choose(decision: Decision) -> Tensor:
        run, eligible = decision.run, decision.eligible
        if decision.exclusive and how != "random":
            # All or none would be no choice: a model may compute nothing sensible with either.
            costs = run.new_tensor(decision.costs(), dtype=torch.float64).expand(run.shape)
            return only(run, costs if how == "open" else -costs, eligible)
        if how == "open":
            return torch.ones_like(run)
        if how == "closed":
            return torch.zeros_like(run)
        # Drawn on the CPU, so that a seed means the same decisions on every device.
        noise = torch.rand(run.shape, generator=generator, device="cpu").to(run.device)
        if decision.exclusive and share is not None:
            return only(run, noise, eligible)
        if share is None and (decision.exclusive or decision.unit == "step"):
            # Whole rows move: units drawn one by one would break one-of-G and first-k-of-G.
            return _shuffle_rows(run, noise, eligible)
        if eligible is not None:  # what can never run must take nothing of the budget
            noise = noise.masked_fill(~eligible, torch.inf)
        if share is None:
            return _draw_as_many(run, noise)
        drawn = noise < share
        return drawn.sort(-1, descending=True).values if decision.unit == "step" else drawn

    return choose


def only(run: Tensor, scores: Tensor, eligible: Tensor | None) -> Tensor:
    """Shaped like `run` [..., G]: of every element the eligible unit of the highest score alone."""
    if eligible is not None:
        scores = scores.masked_fill(~eligible, -math.inf)
    best = scores.argmax(-1, keepdim=True)
    return run.new_zeros(run.shape).scatter(-1, best, True)


def _shuffle_rows(run: Tensor, noise: Tensor, eligible: Tensor | None) -> Tensor:
    """The rows of `run` [..., G] in another order: elements take over one another's choices.

    Only elements that are alike in what is eligible: padding keeps its empty row.
    """
    rows = run.flatten(0, -2)
    order = noise[..., 0].flatten().argsort()  # one random number for each row, [n] or [n T]
    if eligible is None or not len(rows):
        return rows[order].view_as(run)
    kinds = eligible.flatten(0, -2).unique(dim=0, return_inverse=True)[1]
    places, taken = kinds.argsort(stable=True), order[kinds[order].argsort(stable=True)]
    shuffled = rows.clone()
    shuffled[places] = rows[taken]
    return shuffled.view_as(run)


def _draw_as_many(run: Tensor, noise: Tensor) -> Tensor:
    """A random choice with as many running elements in each row (or in all, for [n])."""
    if run.dim() == 1:
        return _draw_as_many(run[None], noise[None])[0]
    rank = noise.argsort(-1).argsort(-1)  # the inverse of a sort is each element's rank
    return rank < run.sum(-1, keepdim=True)
