"""A rest: the board without work, before, between or after stretches of it, while one waits.

Its energy is not the work's and is subtracted. The counter gives the idle level; the power shows
how the board fell to it. A power reading may itself be late: one that has not changed since the
work is stale and shows nothing, and one that falls more slowly than the counter does is an average.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bench.meters.energy.edges import Edge
from bench.meters.energy.polling import Sample, integral_j


@dataclass(frozen=True)
class Rest:
    """Seconds without work, the updates of the counter in them, and the power meanwhile."""

    begin_s: float  # the work before it has ended; of the first rest: its update
    end_s: float  # the next work begins; of the last rest: its last update
    edges: tuple[Edge, ...]  # at least one
    samples: tuple[Sample, ...]  # at least one
    worked_w: float | None = None  # power reading just before the rest; None: unknown

    @property
    def seconds(self) -> float:
        """Length."""
        return self.end_s - self.begin_s

    @property
    def num_stale(self) -> int:
        """Leading samples that still show the reading from before the rest."""
        fresh = (k for k, s in enumerate(self.samples) if s.power_w != self.worked_w)
        return next(fresh, len(self.samples))

    @property
    def stale_s(self) -> float:
        """Seconds until the power reading changed for the first time."""
        stale = self.num_stale
        end_s = self.end_s if stale == len(self.samples) else self.samples[stale].time_s
        return end_s - self.begin_s if stale else 0.0

    def above_j(
        self, level_w: float, begin_s: float | None = None, end_s: float | None = None
    ) -> float:
        """Joules above `level_w` that the power shows between two moments, or in the whole rest.

        A stale reading counts as the first fresh one; 0 where no reading is fresh.
        """
        fresh = self.samples[self.num_stale :]
        begin_s = self.begin_s if begin_s is None else begin_s
        end_s = self.end_s if end_s is None else end_s
        if not fresh or end_s <= begin_s:
            return 0.0
        # Twice the last: one sample is enough here, whose power is then that of the whole rest.
        whole_j = integral_j([*fresh, fresh[-1]], begin_s, end_s) or 0.0
        return whole_j - level_w * (end_s - begin_s)


def level_w(edges: Sequence[Edge]) -> float:
    """Mean watts of the counter from the first to the last of at least two updates."""
    first, last = edges[0], edges[-1]
    return (last.energy_mj - first.energy_mj) / 1e3 / (last.time_s - first.time_s)


def mean_w(samples: Sequence[Sample]) -> float:
    """Mean of the power readings."""
    return float(np.mean([sample.power_w for sample in samples]))
