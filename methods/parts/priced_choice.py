"""One of several alternatives of different cost for each sample, at a price per FLOP.

A gate's logits say how good each alternative is, the price how dear: argmax(logits - price x cost).
One trained gate so serves every budget: each has a price, found on held-out batches. A fixed
alternative for all samples is an operating point, too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.routing import region

GATED = "gate"  # operating points of the gate are called "gate 0.6", after their budget


class PricedChoice(nn.Module):
    """The price in use, and one for every budget.

    `shares` [G]: FLOPs of a pass with each alternative, as shares of the dense model's. Prices are
    0 until they are calibrated. `fixed`: the alternative that all samples take, None where the gate
    decides.
    """

    price: Tensor
    prices: Tensor

    def __init__(self, shares: Sequence[float], budgets: Sequence[float]) -> None:
        super().__init__()
        self.shares, self.budgets = tuple(shares), tuple(budgets)
        self.fixed: int | None = None
        # Buffers, so that calibrated prices travel with the weights.
        self.register_buffer("price", torch.tensor(0.0))
        self.register_buffer("prices", torch.zeros(len(self.budgets)))

    def priced(self, logits: Tensor) -> Tensor:
        """`logits` [B, G] minus the price of each alternative."""
        return logits - self.price * logits.new_tensor(self.shares)

    def best(self, logits: Tensor) -> Tensor:
        """The best alternative of each sample at the price in use, bool [B, G]."""
        return F.one_hot(self.priced(logits).argmax(-1), logits.shape[-1]).bool()

    def everywhere(self, num_samples: int, device: torch.device) -> Tensor:
        """The fixed alternative for every sample, bool [B, G]."""
        assert self.fixed is not None
        choice = torch.full((num_samples,), self.fixed, device=device)
        return F.one_hot(choice, len(self.shares)).bool()

    def calibrate(self, logits: Tensor) -> None:
        """Find every budget's price on held-out `logits` [N, G]."""
        for i, budget in enumerate(self.budgets):
            self.prices[i] = find_price(logits, logits.new_tensor(self.shares), budget)

    def use(self, value: float | int | str, alternatives: Sequence[float]) -> None:
        """Take an operating point of `points`. Raises ValueError for one that is not among them."""
        if isinstance(value, str):
            self.fixed = None
            self.price.copy_(self.prices[_gated(self.budgets).index(value)])
        else:
            self.fixed = list(alternatives).index(value)


def check_budgets(budgets: Sequence[float], least: float) -> None:
    """Raises ValueError for a budget below `least`, the cheapest alternative's share of FLOPs."""
    if min(budgets, default=least) < least:
        raise ValueError(
            f"budget {min(budgets):g} cannot be kept: the cheapest alternative takes {least:.2f} of"
            " the dense model's FLOPs; raise it, or offer a cheaper one"
        )


def points(budgets: Sequence[float], alternatives: Sequence[float]) -> list[float | str]:
    """The gate at every budget, the first of which is the default, then the fixed alternatives."""
    return [*_gated(budgets), *alternatives]


def _gated(budgets: Sequence[float]) -> list[str]:
    return [f"{GATED} {budget:g}" for budget in budgets]


def find_price(logits: Tensor, shares: Tensor, budget: float) -> float:
    """The lowest price at which the mean share of argmax(logits - price x shares) is in `budget`.

    `logits` [N, G], `shares` [G]. It may be negative: a budget is there to be spent. Prices are
    halfway between two at which a sample changes its choice, so that rounding changes none.
    """
    dear, cheap = torch.triu_indices(len(shares), len(shares), 1)
    gap = shares[dear] - shares[cheap]  # [pairs]
    # Where two alternatives of a sample are equally good; a dearer one is left above it.
    turns = ((logits[:, dear] - logits[:, cheap]) / gap)[:, gap != 0].flatten().sort().values
    halfway = (turns[1:] + turns[:-1]) / 2
    prices = [float(turns[0]) - 1, *halfway.tolist(), float(turns[-1]) + 1]  # increasing
    low, high = 0, len(prices) - 1  # bisection: the mean share falls with the price
    while low < high:
        middle = (low + high) // 2
        if mean_share(logits, shares, prices[middle]) <= budget:
            high = middle
        else:
            low = middle + 1
    return prices[low]


def mean_share(logits: Tensor, shares: Tensor, price: float) -> float:
    """Mean share that N samples take at a price; shapes as in `find_price`."""
    return float(shares[(logits - price * shares).argmax(-1)].mean())


def run_by_choice(run: Tensor, alternative: Callable[[int, Tensor | None], Tensor]) -> Tensor:
    """Every sample's result by its alternative, [B, ...]; `run` bool [B, G], one in each row.

    `alternative(g, rows)` gives the results [n, ...] of the samples `rows` [n] > 0; of all where
    they are None. Waits for the device once.
    """
    with region("dispatch"):
        # nonzero of the transpose is sorted by alternative.
        groups = run.t().nonzero()[:, 1].split(run.sum(0).tolist())
    results: Tensor | None = None
    for number, rows in enumerate(groups):
        if len(rows) == 0:
            continue
        if len(rows) == len(run):  # nothing to gather, and nothing to put back
            with region("expert"):
                return alternative(number, None)
        with region("expert"):
            found = alternative(number, rows)
        with region("combine"):
            if results is None:
                results = found.new_zeros(len(run), *found.shape[1:])
            results = results.index_copy(0, rows, found)
    assert results is not None
    return results


def keep_chosen(run: Tensor, results: Mapping[int, Tensor]) -> Tensor:
    """The same from `results` [B, C] of every alternative that a sample has chosen."""
    first, *others = sorted(results)
    kept = results[first]
    for number in others:
        kept = torch.where(run[:, number, None], results[number], kept)
    return kept
