"""Bytes that cannot be: a peak below the model, tensors beyond the process, parts of no whole."""

from __future__ import annotations

from bench.measure.plausibility.facts import Doubts, Facts, Metrics, value, values
from bench.records.catalogue import PEAK_BYTES, PEAK_RSS, TRAIN_PART_BYTES, TRAIN_PEAK_BYTES

# How far the tensors' peak may exceed a process's resident peak: see `resident`.
RESIDENT_MARGIN, UNTOUCHED_BYTES = 1.05, 64 * 2**20
TRAINING_PARTS = ("params", "buffers", "grads", "optimizer", "activation")


def peaks(metrics: Metrics, facts: Facts) -> Doubts:
    """A model in use is in memory."""
    params = facts.parameter_bytes
    for key, metric in metrics.items():
        is_peak = any(e.match(key) is not None for e in (PEAK_BYTES, PEAK_RSS, TRAIN_PEAK_BYTES))
        if params is not None and is_peak and metric.value is not None and metric.value < params:
            yield key, f"the peak is below the model's own {params} bytes"


def resident(metrics: Metrics, facts: Facts) -> Doubts:
    """Two meters of one pass: tensors that are touched are resident, in a process of their own.

    The allocator counts pages that are never written to, so a little more is no contradiction.
    """
    sizes = PEAK_BYTES.batch_sizes(metrics)
    if not sizes:
        return
    keys = (PEAK_RSS.at(), PEAK_BYTES.at(max(sizes)))  # the child's pass has the largest size
    found = values(metrics, *keys)
    if found and found[1] > found[0] * RESIDENT_MARGIN + UNTOUCHED_BYTES:
        for key in keys:
            yield key, f"{found[1]:.0f} bytes of tensors do not fit into {found[0]:.0f} resident"


def training_parts(metrics: Metrics, facts: Facts) -> Doubts:
    """The parts are the whole, and each is there: a negative rest counts something twice."""
    peak, activation = TRAIN_PEAK_BYTES.at(), TRAIN_PART_BYTES.at("activation")
    rest = value(metrics, activation)
    if rest is not None and rest < 0:
        for key in (peak, activation):
            yield key, f"the peak is {-rest:.0f} bytes below its own parts"
    keys = [TRAIN_PART_BYTES.at(part) for part in TRAINING_PARTS]
    found = values(metrics, peak, *keys)
    # Exact: all of them are whole bytes of one window.
    if found and sum(found[1:]) != found[0]:
        for key in (peak, *keys):
            yield key, f"parts sum to {sum(found[1:]):.0f} bytes, the peak is {found[0]:.0f}"
