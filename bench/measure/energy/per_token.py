"""Energy of one further token: what a generation takes beyond its prompt and first token.

    (joules of a whole generation - joules of one that ends at its first token) / further tokens

As time, FLOPs and memory per token, so that the prompt enters none of them. `infer/...` has it for
the GPU and for the CPU packages, each where the whole generation's energy could be read.
"""

from __future__ import annotations

import math

from torch import nn

from bench.measure.energy.inference import (
    CPU_ENERGY,
    ENERGY,
    OpenCounter,
    OpenMeter,
    measure_alone,
)
from bench.measure.inputs import Inputs
from bench.measure.subject import Metrics, Subject
from bench.meters.energy import EnergyMeter
from bench.meters.energy.rapl import CpuEnergy
from bench.records.record import Metric, missing

SINGLE = "a single token is generated"  # why there is no figure per further token
PER_TOKEN = {
    f"infer/{ENERGY}": "infer/energy_j_per_output_token",
    CPU_ENERGY: "infer/cpu_energy_j_per_output_token",
}


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
        return {key: missing("j", SINGLE) for key in PER_TOKEN.values()}
    unknown = {key: whole.get(key, missing("j", "not measured")) for key in PER_TOKEN}
    first: Metrics = {}
    if any(metric.shown is not None for metric in unknown.values()):
        first = measure_alone(subject, short, inputs, open_meter, open_counter)
    return {
        name: _growth(unknown[key], first.get(key), num_tokens - 1)
        for key, name in PER_TOKEN.items()
    }


def _growth(whole: Metric, first: Metric | None, further: int) -> Metric:
    """The difference per further token; its interval as of two independent readings."""
    if whole.shown is None or first is None or first.shown is None:
        reason = whole.reason if whole.shown is None or first is None else first.reason
        return missing("j", reason or "unknown")
    value = (whole.shown - first.shown) / further
    if value <= 0:
        return missing("j", "the first token took as much energy as all of them")
    if None in (whole.low, whole.high, first.low, first.high):
        return Metric(value=value, unit="j")
    half = math.hypot(_half(whole), _half(first)) / further
    return Metric(value=value, unit="j", low=value - half, high=value + half)


def _half(metric: Metric) -> float:
    """Half the width of an interval."""
    assert metric.low is not None
    assert metric.high is not None
    return (metric.high - metric.low) / 2
