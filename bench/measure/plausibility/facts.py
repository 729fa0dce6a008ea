"""What the gates read: a record's metrics, and facts about the machine and the model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from bench.records.record import Metric

Metrics = Mapping[str, Metric]
Doubts = Iterator[tuple[str, str]]  # metric key, what is wrong with it

ROUNDING = 1e-6  # relative, for identities between stored numbers


@dataclass(frozen=True)
class Facts:
    """What the metrics are held against; None skips the gates that need it."""

    peak_flops: float | None = None  # FLOP/s measured on this device, in the model's precision
    parameter_bytes: int | None = None  # of the model, each storage once
    is_control: bool = False  # the candidate is the baseline: an A/A comparison
    unseen_flops: int = 0  # of one call: torch's profiler saw them, the ledger did not
    untracked_kernels: tuple[str, ...] = ()  # names of GPU kernels that no counter sees
    dense_elems: float | None = None  # that the dense model's elementwise work writes, per sample
    batch_elems: float | None = None  # that the model's own writes per sample of a batch
    flop_doubts: tuple[str, ...] = ()  # observations that no FLOP figure survives, in words


def value(metrics: Metrics, key: str) -> float | None:
    """The number at `key`, if it is there and valid."""
    metric = metrics.get(key)
    return None if metric is None else metric.shown


def values(metrics: Metrics, *keys: str) -> list[float] | None:
    """All the numbers, or None if one of them is missing or invalid."""
    found = [value(metrics, key) for key in keys]
    return None if any(each is None for each in found) else [x for x in found if x is not None]


def same(left: float, right: float) -> bool:
    """Equal but for the rounding of stored numbers."""
    return math.isclose(left, right, rel_tol=ROUNDING)
