"""Physical plausibility: numbers that cannot be true are kept, marked invalid, and shown nowhere.

    metrics = check(metrics, Facts(peak_flops=..., parameter_bytes=...))

Each gate compares a record's metrics with one another or with a fact about the machine. They are
cheap, and they catch most meter bugs: a missing synchronisation, a leaked window, a lost part.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

from bench.measure.plausible_energy import energy_doubts
from bench.meters.elementwise import hidden_products
from bench.record import Metric

Metrics = Mapping[str, Metric]
Doubts = Iterator[tuple[str, str]]  # metric key, what is wrong with it

CONTROL_MARGIN = 0.01  # how far beyond its interval an A/A ratio may lie from 1
PEAK_MARGIN = 1.05  # the peak itself is measured
RESIDENT_MARGIN, UNTOUCHED_BYTES = 1.05, 64 * 2**20  # tensors beyond a process's resident peak
ROUNDING = 1e-6  # relative, for identities between stored numbers
TRAINING_PARTS = ("params", "buffers", "grads", "optimizer", "activation")
TIME_REGIONS = ("backbone", "router", "dispatch", "expert", "combine", "exit_head")
NEVER_NEGATIVE = ("flop", "bytes", "s", "ms", "j", "samples/s", "count")
OF_FLOPS = tuple(f"infer/{x}" for x in ("flops_", "tau_", "realised_", "saving_realised_"))
NEVER_ZERO = ("bytes", "ms", "j", "samples/s")  # at inference: missing is null, never 0


@dataclass(frozen=True)
class Facts:
    """What the metrics are held against; None skips the gates that need it."""

    peak_flops: float | None = None  # FLOP/s measured on this device, in the model's precision
    parameter_bytes: int | None = None  # of the model, each storage once
    is_control: bool = False  # the candidate is the baseline: an A/A comparison
    unseen_flops: int = 0  # of one call: torch's profiler saw them, the ledger did not
    untracked_kernels: tuple[str, ...] = ()  # names of GPU kernels that nobody could count
    dense_elems: float | None = None  # that the dense model's elementwise work writes, per sample


def check(metrics: Metrics, facts: Facts) -> dict[str, Metric]:
    """The metrics, with `valid=False` and a reason where a number is implausible.

    Pure: the given metrics stay as they are. Metrics that are already missing or invalid keep
    their reason and make no other one invalid.
    """
    doubts: dict[str, str] = {}
    for gate in _GATES:
        for key, reason in gate(metrics, facts):
            doubts.setdefault(key, reason)
    return {
        key: metric.model_copy(update={"valid": False, "reason": f"implausible: {doubts[key]}"})
        if key in doubts and metric.shown is not None
        else metric
        for key, metric in metrics.items()
    }


def _value(metrics: Metrics, key: str) -> float | None:
    """The number at `key`, if it is there and valid."""
    metric = metrics.get(key)
    return None if metric is None else metric.shown


def _values(metrics: Metrics, *keys: str) -> list[float] | None:
    """All the numbers, or None if one of them is missing or invalid."""
    found = [_value(metrics, key) for key in keys]
    return None if any(each is None for each in found) else [x for x in found if x is not None]


def _sizes(metrics: Metrics, stem: str) -> list[str]:
    """The batch sizes that have a metric `stem_b{B}`."""
    matches = (re.fullmatch(re.escape(stem) + r"_b(\d+)", key) for key in metrics)
    return [match.group(1) for match in matches if match]


def _signs(metrics: Metrics, facts: Facts) -> Doubts:
    for key, metric in metrics.items():
        if metric.value is None or metric.unit not in NEVER_NEGATIVE:
            continue
        if key.startswith("infer/quality"):  # a task's own unit
            continue
        if metric.value < 0:
            yield key, f"a negative number of {metric.unit}"
        elif metric.value == 0 and metric.unit in NEVER_ZERO and key.startswith("infer/"):
            yield key, f"0 {metric.unit}: the meter saw nothing"


def _intervals(metrics: Metrics, facts: Facts) -> Doubts:
    for key, metric in metrics.items():
        if metric.value is None:
            continue
        low = metric.value if metric.low is None else metric.low
        high = metric.value if metric.high is None else metric.high
        if not low <= metric.value <= high:
            yield key, f"outside its own interval {low:.4g} to {high:.4g}"


def _achieved_flops(metrics: Metrics, facts: Facts) -> Doubts:
    """Nothing computes faster than the machine's fastest matrix product."""
    if facts.peak_flops is None:
        return
    rates: list[tuple[float, list[str]]] = []  # achieved FLOP/s, metrics that rest on that time
    for size in _sizes(metrics, "infer/throughput"):
        names = ("throughput", "speedup", "realised", "saving_realised")
        rates.append((_rate(metrics, size), [f"infer/{name}_b{size}" for name in names]))
    latency = _values(metrics, "infer/flops_per_sample_p50", "infer/latency_ms_p50")
    if latency and latency[1]:
        keys = [f"infer/latency_ms_p{percent}" for percent in (50, 90, 99)]
        rates.append((latency[0] / latency[1] * 1e3, keys))
    step = _values(metrics, "train/flops_per_step", "train/num_steps", "train/time_s")
    if step and step[2]:
        rates.append((step[0] * step[1] / step[2], ["train/time_s"]))
    for rate, keys in rates:
        if rate > facts.peak_flops * PEAK_MARGIN:
            for key in keys:
                yield key, _too_fast(rate, facts.peak_flops)


def _rate(metrics: Metrics, size: str) -> float:
    """FLOP/s of the candidate or its dense baseline at one batch size, whichever is higher."""
    own = _values(metrics, f"infer/throughput_b{size}", f"infer/flops_per_sample_b{size}")
    if own is None:
        return 0.0
    ratios = _values(metrics, f"infer/tau_b{size}", f"infer/speedup_b{size}")
    dense_over_own = ratios[0] / ratios[1] if ratios and ratios[1] else 0.0
    return own[0] * own[1] * max(1.0, dense_over_own)


def _too_fast(rate: float, peak: float) -> str:
    return (
        f"{rate:.3g} FLOP/s are more than the {peak:.3g} that this machine reaches "
        "(a missing synchronisation, or FLOPs counted twice)"
    )


def _unseen(metrics: Metrics, facts: Facts) -> Doubts:
    """What one counter saw was executed, whatever the other says."""
    if facts.unseen_flops:
        why = f"torch's profiler saw {facts.unseen_flops:.3g} FLOPs more in one call"
    elif facts.untracked_kernels:
        why = f"GPU kernels that no torch operation launched: {', '.join(facts.untracked_kernels)}"
    else:
        return
    for key in metrics:
        if key.startswith(OF_FLOPS) and key != "infer/flops_profiler":
            yield key, why


def _hidden_products(metrics: Metrics, facts: Facts) -> Doubts:
    """A product that is multiplied and summed element by element is one, and is not counted."""
    keys = ("infer/pointwise_elems", "infer/flops_per_sample", "infer/flops_share")
    found = _values(metrics, *keys)
    if found is None or facts.dense_elems is None or not found[2]:
        return
    elems, flops, share = found
    if not hidden_products(elems, facts.dense_elems, flops / share, flops):
        return
    for key in metrics:
        if key.startswith(OF_FLOPS):
            yield (
                key,
                (
                    f"elementwise work writes {elems:.3g} elements a sample, the dense model's "
                    f"{facts.dense_elems:.3g}: products by multiplication and sum are not counted"
                ),
            )


def _memory(metrics: Metrics, facts: Facts) -> Doubts:
    """A model in use is in memory."""
    params = facts.parameter_bytes
    for key, metric in metrics.items():
        is_peak = re.search(r"/peak_(tensor|rss)_bytes(_b\d+)?$", key) is not None
        if params is not None and is_peak and metric.value is not None and metric.value < params:
            yield key, f"the peak is below the model's own {params} bytes"


def _resident_memory(metrics: Metrics, facts: Facts) -> Doubts:
    """Two meters of one pass: tensors that are touched are resident, in a process of their own.

    The allocator counts pages that nobody ever writes to, so a little more is no contradiction.
    """
    sizes = [int(size) for size in _sizes(metrics, "infer/peak_tensor_bytes")]
    if not sizes:
        return
    keys = ("infer/peak_rss_bytes", f"infer/peak_tensor_bytes_b{max(sizes)}")
    found = _values(metrics, *keys)
    if found and found[1] > found[0] * RESIDENT_MARGIN + UNTOUCHED_BYTES:
        for key in keys:
            yield key, f"{found[1]:.0f} bytes of tensors do not fit into {found[0]:.0f} resident"


def _training_parts(metrics: Metrics, facts: Facts) -> Doubts:
    """The parts are the whole, and each is there: a negative rest counts something twice."""
    rest = _value(metrics, "train/activation_bytes")
    if rest is not None and rest < 0:
        for key in ("train/peak_tensor_bytes", "train/activation_bytes"):
            yield key, f"the peak is {-rest:.0f} bytes below its own parts"
    keys = [f"train/{part}_bytes" for part in TRAINING_PARTS]
    found = _values(metrics, "train/peak_tensor_bytes", *keys)
    if found and sum(found[1:]) != found[0]:
        for key in ("train/peak_tensor_bytes", *keys):
            yield key, f"parts sum to {sum(found[1:]):.0f} bytes, the peak is {found[0]:.0f}"


def _time_shares(metrics: Metrics, facts: Facts) -> Doubts:
    """At one batch size, shares of one pass: none below 0, and together at most the whole."""
    by_size: dict[str, dict[str, float]] = {}
    for key in metrics:
        match = re.fullmatch(r"infer/time_share_\w+_b(\d+)", key)
        value = _value(metrics, key)
        if match and value is not None:
            by_size.setdefault(match.group(1), {})[key] = value
    for shares in by_size.values():
        total = sum(shares.values())
        if total > 1 + ROUNDING or min(shares.values()) < 0:
            for key in shares:
                yield key, f"shares between 0 and 1 cannot sum to {total:.4g}"


def _flop_regions(metrics: Metrics, facts: Facts) -> Doubts:
    keys = [key for name in TIME_REGIONS if (key := f"infer/flops_{name}") in metrics]
    found = _values(metrics, "infer/flops_per_sample", *keys) if keys else None
    if found and not _same(sum(found[1:]), found[0]):
        for key in keys:
            yield key, f"regions sum to {sum(found[1:]):.6g} FLOPs, the whole is {found[0]:.6g}"


def _order(metrics: Metrics, facts: Facts) -> Doubts:
    """Percentiles rise, and no mean lies above the largest value."""
    for stem in ("infer/flops_per_sample", "infer/latency_ms"):
        keys = [f"{stem}_{name}" for name in ("p50", "p90", "p99", "max")]
        present = [(key, value) for key in keys if (value := _value(metrics, key)) is not None]
        for (lower_key, lower), (upper_key, upper) in pairwise(present):
            if lower > upper * (1 + ROUNDING):
                for key in (lower_key, upper_key):
                    yield key, f"{lower_key} is above {upper_key}"
        mean_max = _values(metrics, stem, f"{stem}_max")
        if mean_max and mean_max[0] > mean_max[1] * (1 + ROUNDING):
            yield stem, "the mean is above the largest value"


def _ratios(metrics: Metrics, facts: Facts) -> Doubts:
    """realised = speed-up / tau at every batch size; tau = dense / method FLOPs."""
    for size in _sizes(metrics, "infer/realised"):
        names = (f"infer/realised_b{size}", f"infer/tau_b{size}", f"infer/speedup_b{size}")
        found = _values(metrics, *names)
        if found and not _same(found[0] * found[1], found[2]):
            yield names[0], f"{found[0]:.4g} is not speed-up {found[2]:.4g} / tau {found[1]:.4g}"
    share = _values(metrics, "infer/flops_share", "infer/tau_b1")
    if share and not _same(share[0] * share[1], 1.0):
        for key in ("infer/flops_share", "infer/tau_b1"):
            yield key, f"FLOP share {share[0]:.4g} and ratio {share[1]:.4g} contradict each other"


def _active_params(metrics: Metrics, facts: Facts) -> Doubts:
    found = _values(metrics, "model/active_params_per_sample", "model/params")
    if found and found[0] > found[1]:
        yield "model/active_params_per_sample", "more parameters active than there are"


def _control(metrics: Metrics, facts: Facts) -> Doubts:
    """The same model twice is equally fast, or the comparison itself is biased."""
    if not facts.is_control:
        return
    for size in _sizes(metrics, "infer/speedup"):
        metric = metrics[f"infer/speedup_b{size}"]
        if metric.low is None or metric.high is None:
            continue
        if metric.low > 1 + CONTROL_MARGIN or metric.high < 1 - CONTROL_MARGIN:
            yield (
                f"infer/speedup_b{size}",
                f"the same model came out {metric.value:.3f} times as fast as itself",
            )


def _energy(metrics: Metrics, facts: Facts) -> Doubts:
    yield from energy_doubts(metrics, facts.is_control)


def _same(left: float, right: float) -> bool:
    return math.isclose(left, right, rel_tol=ROUNDING)


_GATES: tuple[Callable[[Metrics, Facts], Doubts], ...] = (
    _signs,
    _intervals,
    _achieved_flops,
    _unseen,
    _hidden_products,
    _memory,
    _resident_memory,
    _training_parts,
    _time_shares,
    _flop_regions,
    _order,
    _ratios,
    _active_params,
    _control,
    _energy,
)
