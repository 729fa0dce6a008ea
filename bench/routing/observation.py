"""The decisions of an observed call, and those of some of its samples."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from bench.routing.decisions import Decision

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class Observation:
    """Every decision of the observed calls, in call order."""

    decisions: list[Decision] = field(default_factory=list)

    def named(self, name: str) -> list[Decision]:
        """The decisions of one gate, in call order."""
        return [d for d in self.decisions if d.name == name]

    def select(self, index: Tensor) -> Observation:
        """The same decisions for some samples only: sample index[i] becomes sample i."""
        return Observation([_select(decision, index) for decision in self.decisions])

    def declared_flops(self) -> float:
        """FLOPs (2 x MAC) that the decisions declare."""
        return sum(decision.declared_flops() for decision in self.decisions)


def _select(decision: Decision, index: Tensor) -> Decision:
    """`decision` for the samples `index`, each under its number in `index`."""
    if decision.index is None:
        return _take_rows(decision, index, None)  # row = sample: the whole batch in order
    import torch  # not at the top: reading records imports this package without torch

    # A sample may be missing in a compacted decision, or have several rows.
    rows = [(decision.index == sample).nonzero().flatten() for sample in index]
    new = torch.cat([torch.full_like(r, i) for i, r in enumerate(rows)]) if rows else index
    return _take_rows(decision, torch.cat(rows) if rows else index, new)


def _take_rows(decision: Decision, rows: Tensor, index: Tensor | None) -> Decision:
    """Some rows of a decision, now of the samples `index`."""

    def pick(value: Tensor | None) -> Tensor | None:
        return None if value is None else value[rows]

    return replace(
        decision,
        probabilities=decision.probabilities[rows],
        run=decision.run[rows],
        index=index,
        tokens=pick(decision.tokens),
        eligible=pick(decision.eligible),
        past=pick(decision.past),
        payload=pick(decision.payload),
    )
