"""Bytes that cannot be: a peak below the model, tensors beyond the process, parts of no whole."""

from __future__ import annotations

import re

from bench.measure.plausibility.facts import Doubts, Facts, Metrics, sizes, value, values

RESIDENT_MARGIN, UNTOUCHED_BYTES = 1.05, 64 * 2**20  # tensors beyond a process's resident peak
TRAINING_PARTS = ("params", "buffers", "grads", "optimizer", "activation")


def peaks(metrics: Metrics, facts: Facts) -> Doubts:
    """A model in use is in memory."""
    params = facts.parameter_bytes
    for key, metric in metrics.items():
        is_peak = re.search(r"/peak_(tensor|rss)_bytes(_b\d+)?$", key) is not None
        if params is not None and is_peak and metric.value is not None and metric.value < params:
            yield key, f"the peak is below the model's own {params} bytes"


def resident(metrics: Metrics, facts: Facts) -> Doubts:
    """Two meters of one pass: tensors that are touched are resident, in a process of their own.

    The allocator counts pages that nobody ever writes to, so a little more is no contradiction.
    """
    measured = [int(size) for size in sizes(metrics, "infer/peak_tensor_bytes")]
    if not measured:
        return
    keys = ("infer/peak_rss_bytes", f"infer/peak_tensor_bytes_b{max(measured)}")
    found = values(metrics, *keys)
    if found and found[1] > found[0] * RESIDENT_MARGIN + UNTOUCHED_BYTES:
        for key in keys:
            yield key, f"{found[1]:.0f} bytes of tensors do not fit into {found[0]:.0f} resident"


def training_parts(metrics: Metrics, facts: Facts) -> Doubts:
    """The parts are the whole, and each is there: a negative rest counts something twice."""
    rest = value(metrics, "train/activation_bytes")
    if rest is not None and rest < 0:
        for key in ("train/peak_tensor_bytes", "train/activation_bytes"):
            yield key, f"the peak is {-rest:.0f} bytes below its own parts"
    keys = [f"train/{part}_bytes" for part in TRAINING_PARTS]
    found = values(metrics, "train/peak_tensor_bytes", *keys)
    if found and sum(found[1:]) != found[0]:
        for key in ("train/peak_tensor_bytes", *keys):
            yield key, f"parts sum to {sum(found[1:]):.0f} bytes, the peak is {found[0]:.0f}"
