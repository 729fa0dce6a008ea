"""Intervals of speed-ups over processes, with a spread that the trials of a table have in common.

A trial alone has few processes, and its own interval is wide. What changes between processes is
much the same for the models of a table, so its variance is pooled over them, per batch size.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from bench.records.catalogue import REALISED, SAVING_REALISED, SPEEDUP, TAU
from bench.records.entry import Entry
from bench.records.reading import Found
from bench.records.record import Metric, PointResult

if TYPE_CHECKING:
    from bench.statistics.processes import Spread

Metrics = dict[str, Metric]
Medians = dict[int, list[float]]  # log ratio of each process, by batch size
# A foreign record may hold anything: a ratio of a billion is no timing, and one such value would
# widen the intervals of all other trials.
LARGEST_LOG = math.log(1e9)
LONGEST_SIZE = 9  # digits of a batch size


def spreads(found: Sequence[Found]) -> dict[int, Spread]:
    """The pooled spread between processes at each batch size; {} without several processes."""
    from bench.statistics.processes import pool  # scipy: only where something was timed so

    by_size: dict[int, list[list[float]]] = defaultdict(list)
    for item in found:
        for number in range(len(item.record.points)):
            for size, medians in _medians(item, number).items():
                by_size[size].append(medians)
    pooled = {size: pool(trials) for size, trials in sorted(by_size.items())}
    return {size: spread for size, spread in pooled.items() if spread is not None}


def with_pooled_intervals(found: Sequence[Found]) -> list[Found]:
    """The same trials with intervals from the spread that they have in common."""
    common = spreads(found)
    return [_pooled(item, common) for item in found] if common else list(found)


def _pooled(item: Found, common: Mapping[int, Spread]) -> Found:
    points = []
    for number, point in enumerate(item.record.points):
        metrics = dict(point.metrics)
        for size, medians in _medians(item, number).items():
            if size in common:
                _widen(metrics, size, medians, common[size])
        points.append(PointResult(settings=point.settings, metrics=metrics))
    if not points:
        return item
    # The default point's metrics stand among the record's, too.
    own = {key: points[0].metrics.get(key, m) for key, m in item.record.metrics.items()}
    record = item.record.model_copy(update={"points": points, "metrics": own})
    return replace(item, record=record)


def _widen(metrics: Metrics, size: int, medians: Sequence[float], common: Spread) -> None:
    """Replace the interval of the speed-up, and of what is made of it, in place."""
    from bench.statistics.intervals import MIN_TAU
    from bench.statistics.processes import BETWEEN_SESSIONS, process_interval

    found = process_interval(medians, common, BETWEEN_SESSIONS).map(math.exp)
    speedup, tau = metrics.get(SPEEDUP.at(size)), metrics.get(TAU.at(size))
    if speedup is None or speedup.shown is None or found.low is None or found.high is None:
        return
    bounds = (found.low, found.high)
    metrics[SPEEDUP.at(size)] = _bounded(speedup, *bounds)
    if tau is None or not tau.shown or tau.shown <= 0:
        return
    of_tau = float(tau.shown)
    shares: dict[Entry, Callable[[float], float]] = {REALISED: lambda sigma: sigma / of_tau}
    if of_tau > MIN_TAU:  # below, the trial left the share out: there is hardly any saving
        shares[SAVING_REALISED] = lambda sigma: (1 - 1 / sigma) / (1 - 1 / of_tau)
    for entry, share in shares.items():
        metric = metrics.get(entry.at(size))
        if metric is not None and metric.shown is not None:
            metrics[entry.at(size)] = _bounded(metric, *map(share, bounds))


def _bounded(metric: Metric, low: float, high: float) -> Metric:
    return metric.model_copy(update={"low": low, "high": high})


def _medians(item: Found, number: int) -> Medians:
    """What the record says of each process at an operating point; {} in older records."""
    timing: Any = item.record.diagnostics.get("timing")
    point = timing.get(f"point{number}") if isinstance(timing, dict) else None
    return dict(_sizes(point)) if isinstance(point, dict) else {}


def _sizes(point: Mapping[str, Any]) -> Iterator[tuple[int, list[float]]]:
    # Diagnostics are free-form: anything may stand there in a foreign record.
    for name, details in point.items():
        medians = details.get("process_log_ratios") if isinstance(details, dict) else None
        size = name.removeprefix("b")
        if not (name != size and size.isdecimal() and len(size) <= LONGEST_SIZE):
            continue
        if isinstance(medians, list) and medians and all(map(_is_log_ratio, medians)):
            yield int(size), [float(m) for m in medians]


def _is_log_ratio(value: object) -> bool:
    # NaN compares false; so does an integer of any length, without an overflow.
    return type(value) in (int, float) and abs(cast(float, value)) <= LARGEST_LOG
