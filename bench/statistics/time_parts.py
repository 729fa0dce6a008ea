"""Where the time of a conditional pass goes: four parts, in a fixed order, that sum to it.

    ideal      dense time / FLOP ratio: every FLOP at the speed of the dense model's
    routing    router, dispatch and combine, beyond what their own FLOPs take in `ideal`
    products   all other products, beyond what as many FLOPs of the dense model's products take
    rest       calls, threads, and work without FLOPs that did not shrink with them

Every part is a share of the time of the dense model's pass: 1 is dense, and their sum is
1 / speed-up.
"""

from __future__ import annotations

from dataclasses import dataclass

MAX_REST = 0.15  # of a pass; with more left over, the other parts explain too little of it


@dataclass(frozen=True)
class Shares:
    """What was measured of one model's pass, each a share of the same pass."""

    routing_time: float  # inside router, dispatch and combine
    routing_flops: float
    products_time: float  # products outside of them, run alone


@dataclass(frozen=True)
class TimeParts:
    """The parts of a method's pass. All but `ideal` may be negative: faster than dense's."""

    ideal: float
    routing: float
    products: float
    rest: float

    @property
    def total(self) -> float:
        """Time of the pass / time of the dense model's."""
        return self.ideal + self.routing + self.products + self.rest

    @property
    def is_explained(self) -> bool:
        """Whether at most MAX_REST of the pass is left over, in either direction."""
        return abs(self.rest) <= MAX_REST * self.total


def time_parts(speedup: float, tau: float, method: Shares, dense_products: float) -> TimeParts:
    """The parts of a pass at a speed-up and a FLOP ratio `tau`, both to dense.

    `dense_products` is the share of the dense model's pass that its products take alone. Raises
    ValueError where `speedup` or `tau` is not above 0.
    """
    if speedup <= 0 or tau <= 0:
        raise ValueError(f"speed-up {speedup} and FLOP ratio {tau} are both above 0")
    total, ideal = 1 / speedup, 1 / tau
    # FLOPs of routing, as a share of dense's: `ideal` has their time already.
    ideal_routing = method.routing_flops * ideal
    routing = method.routing_time * total - ideal_routing
    products = method.products_time * total - dense_products * (ideal - ideal_routing)
    return TimeParts(ideal, routing, products, total - ideal - routing - products)
