"""Energy of one further token: what a generation takes beyond its prompt and first token.

    (joules of a whole generation - joules of one that ends at its first token) / further tokens

As for time, FLOPs and memory per token, the prompt enters none of them. `infer/...` has it for the
GPU and for the CPU packages, each where the whole generation's energy could be read.
"""

from __future__ import annotations

import math

from torch import nn

from bench.measure.energy.inference import OpenCounter, OpenMeter, measure_alone
from bench.measure.inputs import Inputs
from bench.measure.metrics import metric, missing_metric
from bench.measure.subject import Metrics, Subject
from bench.meters.energy import EnergyMeter
from bench.meters.energy.rapl import CpuEnergy
from bench.meters.energy.reading import BELOW_IDLE
from bench.records.catalogue import (
    CPU_ENERGY,
    CPU_NET_ENERGY,
    CPU_TOKEN_ENERGY,
    ENERGY,
    NET_ENERGY,
    TOKEN_ENERGY,
)
from bench.records.entry import Entry
from bench.records.record import Metric

SINGLE = "a single token is generated"  # why there is no figure per further token
PER_TOKEN = ((ENERGY, TOKEN_ENERGY), (CPU_ENERGY, CPU_TOKEN_ENERGY))
NET_OF = {ENERGY.at(): NET_ENERGY.at(), CPU_ENERGY.at(): CPU_NET_ENERGY.at()}


def measure_token_energy(
    subject: Subject,
    short: nn.Module,
    inputs: Inputs,
    whole: Metrics,
    num_tokens: int,
    open_meter: OpenMeter = EnergyMeter,
    open_counter: OpenCounter = CpuEnergy,
) -> Metrics:
    """Joules per further token; `short` ends at the first, `whole` is of `num_tokens`."""
    if num_tokens == 1:
        return {entry.at(): missing_metric(entry, SINGLE) for _, entry in PER_TOKEN}
    of_whole = [whole.get(e.at(), missing_metric(e, "not measured")) for e, _ in PER_TOKEN]
    first: Metrics = {}
    # Windows of several seconds each: opened only where there is something to subtract from.
    if any(each.shown is not None for each in of_whole):
        first = measure_alone(subject, short, inputs, open_meter, open_counter)
    return {
        entry.at(): _growth(
            entry,
            each,
            first.get(per_sample.at()),
            num_tokens - 1,
            _idle_growth(whole, first, per_sample.at()),
        )
        for (per_sample, entry), each in zip(PER_TOKEN, of_whole, strict=True)
    }


def _growth(
    entry: Entry, whole: Metric, first: Metric | None, num_further: int, idle_j: float | None
) -> Metric:
    """The difference per further token; its interval as of two independent readings.

    `idle_j`: what the idle device draws while the further tokens are generated.
    """
    if whole.shown is None or first is None or first.shown is None:
        reason = whole.reason if whole.shown is None or first is None else first.reason
        return missing_metric(entry, reason or "unknown")
    value = (whole.shown - first.shown) / num_further
    if value <= 0:  # noise larger than what a few tokens cost
        return missing_metric(entry, "the first token took as much energy as all of them")
    if idle_j is not None and value * num_further < BELOW_IDLE * idle_j:
        return missing_metric(entry, "the further tokens took less energy than the idle device")
    if None in (whole.low, whole.high, first.low, first.high):
        return metric(entry, value)
    # Independent errors add as squares.
    half = math.hypot(_half_width(whole), _half_width(first)) / num_further
    return metric(entry, value, low=value - half, high=value + half)


def _idle_growth(whole: Metrics, first: Metrics, key: str) -> float | None:
    """Joules of the idle device in the further tokens' time; None where net energy is missing."""
    found = [each.get(name) for each in (whole, first) for name in (key, NET_OF[key])]
    values = [each.shown for each in found if each is not None and each.shown is not None]
    if len(values) < len(found):
        return None
    gross, net, first_gross, first_net = values
    return (gross - net) - (first_gross - first_net)


def _half_width(found: Metric) -> float:
    assert found.low is not None
    assert found.high is not None
    return (found.high - found.low) / 2
