"""Whether the power readings are more than the samples that the counter adds up.

A sensor may take one sample of the power in each period, show it as the board's power, and add it
to the counter. Counter and integrated power then agree whatever the board draws in between. Several
stretches of work at several phases find that; one long stretch does not, and needs power readings
that are shown to be others.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from bench.meters.energy.polling import Sample

CLOSE = 0.4  # of the counter's period: readings nearer than that are compared
# Of close readings that differ from the one before. A reading that is held for a period changes in
# two of five at most; a fresh one changes each time, because sensors scatter.
FRESH = 0.75
MIN_CLOSE = 12  # close readings; of a held one five or six may differ


def is_shown_independent(samples: Sequence[Sample], period_s: float) -> bool:
    """Whether power changes between updates of the counter, which come every `period_s`.

    `samples` in order, of a resting board: the work's own changes would say nothing about a reading
    that is in step with it. False also where too few readings are near enough to each other.
    """
    close = [(a, b) for a, b in pairwise(samples) if b.time_s - a.time_s <= CLOSE * period_s]
    num_changed = sum(before.power_w != after.power_w for before, after in close)
    return len(close) >= MIN_CLOSE and num_changed >= FRESH * len(close)
