"""Which units of a weight matrix are stored: densities of layers, a first draw, drop and grow.

A unit is an element or a whole block. A mask is bool [G, M]: in each of the G groups, the whole
layer or one of its rows, the number of stored units never changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import cos, pi, prod

import torch
from torch import Tensor

Shape = tuple[int, ...]  # outputs, inputs and, of a convolution, height and width of the kernel


def uniform(shapes: Mapping[str, Shape], density: float) -> dict[str, float]:
    """The same density for every layer."""
    return dict.fromkeys(shapes, density)


def erdos_renyi_kernel(shapes: Mapping[str, Shape], density: float) -> dict[str, float]:
    """ERK (Evci et al. 2020, section 3): the density of a layer is e (sum of sizes) / (product).

    e is such that all layers together store `density` of their elements. A layer that would need
    more than all of its elements is dense, and e is found again for the others.
    """
    sizes = {name: prod(shape) for name, shape in shapes.items()}
    raw = {name: sum(shape) / sizes[name] for name, shape in shapes.items()}
    dense: set[str] = set()
    while True:
        rest = [name for name in shapes if name not in dense]
        left = density * sum(sizes.values()) - sum(sizes[name] for name in dense)
        factor = left / sum(raw[name] * sizes[name] for name in rest) if rest else 0.0
        # A dense layer frees what it cannot use, which only raises e: none of them returns.
        full = {name for name in rest if factor * raw[name] > 1}
        if not full:
            return {name: 1.0 if name in dense else factor * raw[name] for name in shapes}
        dense |= full


def first_mask(num_groups: int, num_units: int, density: float) -> Tensor:
    """A random mask [G, M] that stores round(density M) units of each group, at least one."""
    return largest(torch.rand(num_groups, num_units), num_stored_units(num_units, density))


def num_stored_units(num_units: int, density: float) -> int:
    """Units that a group of `num_units` stores."""
    return min(num_units, max(1, round(density * num_units)))


def largest(scores: Tensor, num: int) -> Tensor:
    """The `num` largest scores of each group, bool like `scores` [G, M]."""
    places = scores.topk(num, 1).indices
    return torch.zeros_like(scores, dtype=torch.bool).scatter(1, places, True)


def drop_share(progress: float, end: float, first: float) -> float:
    """Share of the stored units that an update moves: `first` / 2 (1 + cos(pi t / T_end)).

    `progress` and `end`: t and T_end as shares of the training (Evci et al. 2020, equation 1).
    """
    return first / 2 * (1 + cos(pi * progress / end))


def moved(mask: Tensor, magnitude: Tensor, growth: Tensor, share: float) -> Tensor:
    """The mask [G, M] after dropping `share` of its units and growing as many.

    The stored units with the smallest `magnitude` are dropped; of all units that are not kept,
    those with the largest `growth` are stored (Algorithm 1), so a dropped one may return at once.
    """
    num_stored = int(mask[0].sum())
    num_moved = int(share * num_stored)
    kept = largest(magnitude.masked_fill(~mask, -torch.inf), num_stored - num_moved)
    return kept | largest(growth.masked_fill(kept, -torch.inf), num_moved)
