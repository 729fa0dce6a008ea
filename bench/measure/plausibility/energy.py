"""Plausible joules: never 0, power between idle and the limit, the counter equal to its power."""

from __future__ import annotations

from collections.abc import Callable

from bench.measure.plausibility.facts import Doubts, Facts, Metrics, value
from bench.meters.energy.reading import ABOVE_LIMIT, BELOW_IDLE, CONSISTENT
from bench.records.catalogue import (
    COUNTER_RATIO,
    ENERGY,
    ENERGY_RATIO,
    IDLE_POWER,
    MEAN_POWER,
    NET_ENERGY,
    POWER_LIMIT,
    TRAIN_ENERGY,
    TRAIN_IDLE_POWER,
    TRAIN_MEAN_POWER,
    TRAIN_NET_ENERGY,
    find,
    module_key,
)
from bench.records.entry import Entry

JOULES = ENERGY.unit
CONTROL_MARGIN = 0.02  # how far beyond its interval an A/A energy ratio may lie from 1
FROM_POWER = (ENERGY, NET_ENERGY, ENERGY_RATIO)  # what an impossible power makes invalid
TRAINED = (TRAIN_ENERGY, TRAIN_NET_ENERGY)  # the same of a training


def zero(metrics: Metrics, facts: Facts) -> Doubts:
    """A device that ran drew power: 0 J is a counter that did not move."""
    for key, metric in metrics.items():
        entry = find(key)  # by key: a task's own score may have any unit
        if metric.value == 0 and entry is not None and entry.unit == JOULES:
            yield key, "0 J: the counter did not move"


def training_power(metrics: Metrics, facts: Facts) -> Doubts:
    """Boards that train draw more than idle ones."""
    mean_w, idle_w = (value(metrics, e.at()) for e in (TRAIN_MEAN_POWER, TRAIN_IDLE_POWER))
    if mean_w is not None and idle_w is not None and mean_w < BELOW_IDLE * idle_w:
        for key in (entry.at() for entry in TRAINED if entry.at() in metrics):
            yield key, f"a mean power of {mean_w:.4g} W, the idle boards draw {idle_w:.4g} W"


def power(metrics: Metrics, facts: Facts) -> Doubts:
    """A board draws between idle and its limit, and the same model as much as itself."""
    # A board and a whole module have the same figures under different keys.
    for key_of in (Entry.at, module_key):
        doubt = _doubt(metrics, key_of)
        if doubt is not None:
            keys = (key_of(entry) for entry in FROM_POWER)
            yield from ((key, doubt) for key in keys if key in metrics)
    ratio = metrics.get(ENERGY_RATIO.at())
    if not facts.is_control or ratio is None or ratio.value is None:
        return
    if ratio.low is None or ratio.high is None:
        return  # one window: its distance from 1 may be chance
    if ratio.low > 1 + CONTROL_MARGIN or ratio.high < 1 - CONTROL_MARGIN:
        yield ENERGY_RATIO.at(), f"self-comparison off by {abs(ratio.value - 1):.1%}"


def _doubt(metrics: Metrics, key_of: Callable[[Entry], str]) -> str | None:
    """Why the joules of a board, or of a module, cannot be true."""
    entries = (MEAN_POWER, IDLE_POWER, POWER_LIMIT, COUNTER_RATIO)
    mean_w, idle_w, limit_w, agreement = (value(metrics, key_of(entry)) for entry in entries)
    if mean_w is not None and idle_w is not None and mean_w < BELOW_IDLE * idle_w:
        return f"a mean power of {mean_w:.4g} W, the idle board draws {idle_w:.4g} W"
    if mean_w is not None and limit_w is not None and mean_w > ABOVE_LIMIT * limit_w:
        return f"a mean power of {mean_w:.4g} W, the board's limit is {limit_w:.4g} W"
    if agreement is not None and abs(agreement - 1) > CONSISTENT:
        return f"the counter reads {agreement:.3f} times the integrated power"
    return None
