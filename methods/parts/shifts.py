"""Operating points of gates: one shift of all logits for each compute budget, found by trying.

A gate that decides by logit + shift > 0 runs more with a larger shift. What one gate closes changes
what later gates read, so that the share cannot be computed from logits: passes are made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from bench.types import Batch

LIMIT = 32.0  # logits beyond it are never shifted over 0
NUM_STEPS = 12  # of bisection: to 64 / 2^12, a hundredth of a logit
NUM_SAMPLES = 256  # that a share is measured on: a pass over more would not pay
CLOSE = 0.005  # a share this close below its budget is not improved further


class Shift(nn.Module):
    """A shift in use, and those of the budgets in `names`, all 0 until `fit`.

    Buffers, so that what has been calibrated travels with the weights.
    """

    value: Tensor
    fitted: Tensor

    def __init__(self, budgets: Sequence[float]) -> None:
        super().__init__()
        self.budgets = list(budgets)
        self.register_buffer("value", torch.zeros(()))
        self.register_buffer("fitted", torch.zeros(len(budgets)))

    def use(self, budget: float) -> None:
        """Decide by the shift of this budget. Raises ValueError if it is not one of `budgets`."""
        self.value.copy_(self.fitted[self.budgets.index(budget)])

    def fit(self, share: Callable[[], float]) -> None:
        """Find every budget's shift; `share()` measures the share that runs with the one in use."""

        def measure(shift: float) -> float:
            self.value.fill_(shift)
            return share()

        self.fitted.copy_(torch.tensor(find_shifts(measure, self.budgets)))
        self.use(self.budgets[0])


def find_shifts(share: Callable[[float], float], budgets: Sequence[float]) -> list[float]:
    """For each budget the largest shift found whose share stays within it.

    `share` grows with the shift. Bisection, in which budgets share what was tried.
    """
    tried = {-LIMIT: 0.0, LIMIT: 1.0}  # not measured: beyond them nothing, or everything, runs
    for budget in budgets:
        for _ in range(NUM_STEPS):
            low, high = _bracket(tried, budget)
            if budget - CLOSE <= tried[low] <= budget:
                break
            middle = (low + high) / 2
            tried[middle] = share(middle)
    return [_bracket(tried, budget)[0] for budget in budgets]


def _bracket(tried: dict[float, float], budget: float) -> tuple[float, float]:
    """The largest shift within the budget that has none beyond it below, and the next one tried."""
    shifts = sorted(tried)
    # The share is not exactly monotonic: a closed gate may open a later one.
    over = next((i for i, shift in enumerate(shifts) if tried[shift] > budget), len(shifts))
    if over == len(shifts):
        return shifts[-1], shifts[-1]
    return shifts[max(over - 1, 0)], shifts[over]


def first_samples(batches: Iterable[Batch], num_samples: int = NUM_SAMPLES) -> list[Batch]:
    """The first batches, until they hold `num_samples`."""
    found: list[Batch] = []
    for batch in batches:
        if sum(map(len, found)) >= num_samples:
            break
        found.append(batch)
    return found
