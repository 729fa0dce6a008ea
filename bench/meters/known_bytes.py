"""The memory meter on work whose peak is known, beside ru_maxrss, on this machine."""

from __future__ import annotations

import resource
from collections.abc import Callable

import torch
from torch import nn

from bench.meters.memory import peak_tensor_bytes, watch
from bench.meters.rss import peak_rss

MIB = 2**20
HEADERS = [
    "workload",
    "live tensors",
    "condbench, 1st",
    "condbench, 2nd",
    "error",
    "ru_maxrss growth, 1st",
    "2nd",
    "resident, child of its own",
]


def big() -> object:
    """20 tensors of 16 MiB."""
    return [torch.zeros(4 * MIB) for _ in range(20)]


def small() -> object:
    """4096 tensors of 64 KiB."""
    return [torch.zeros(16 * 1024) for _ in range(4096)]


def mlp() -> object:
    """Weights of 4 MiB, and two activations of 32 MiB at any moment."""
    with torch.inference_mode():
        weight = torch.ones(1024, 1024)
        hidden = torch.relu(torch.ones(8192, 1024) @ weight)
        return hidden @ weight


def softmax_sort() -> object:
    """Scores, softmax and sorted values of 64 MiB each, positions of 128 MiB."""
    scores = torch.ones(4096, 4096)
    return scores.softmax(-1).sort(-1), scores


def convolution() -> object:
    """3x3 over 64 channels of 8 images of 128 x 128: input and output of 32 MiB, a workspace."""
    with torch.inference_mode():
        conv = nn.Conv2d(64, 64, 3, padding=1)
        return conv(torch.ones(8, 64, 128, 128))


def train() -> object:
    """AdamW on a matrix of 32 MiB: weight, gradient, two moments, two temporaries."""
    weight = nn.Parameter(torch.ones(4096, 2048))
    optimizer = torch.optim.AdamW([weight], foreach=False)
    for _ in range(2):
        optimizer.zero_grad()
        (weight * 2.0).sum().backward()
        optimizer.step()
    return weight


# Closed forms in bytes, and how far above them the meter may be (operators' own scratch).
CONV_OWN = (64 * 64 * 9 + 64) * 4
WORKLOADS: dict[str, tuple[Callable[[], object], int, int]] = {
    "big": (big, 320 * MIB, 0),
    "small": (small, 256 * MIB, 0),
    "mlp": (mlp, (4 + 32 + 32) * MIB, 0),
    "softmax_sort": (softmax_sort, (64 * 3 + 128) * MIB, 64 * 1024),
    "convolution": (convolution, 2 * 32 * MIB + CONV_OWN, 34 * MIB),
    "train": (train, 6 * 32 * MIB, 64),
}


def workload(name: str) -> Callable[[], object]:
    """The target of the resident-memory child; `idle` does nothing."""
    return (lambda: None) if name == "idle" else WORKLOADS[name][0]


def rows_and_failures() -> tuple[list[list[str]], list[str]]:
    """One line per workload, and which closed forms our meter misses."""
    rows, failed = [], []
    idle = _resident("idle")
    for name, (work, expected, slack) in WORKLOADS.items():
        growth = [_maxrss_growth(work), _maxrss_growth(work)]
        first, second = watch(work).peak_bytes, peak_tensor_bytes(work)
        if first != second or not expected <= first <= expected + slack:
            failed.append(f"memory, {name}: {first} and {second} bytes, closed form {expected}")
        sizes = [expected, first, second, *growth, _resident(name) - idle]
        cells = [f"{size / MIB:,.1f} MiB" for size in sizes]
        rows.append([name, *cells[:3], f"{first - expected:+,} B", *cells[3:]])
    return rows, failed


def _maxrss_growth(work: Callable[[], object]) -> int:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    work()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024


def _resident(name: str) -> int:
    return peak_rss("bench.meters.known_bytes:workload", [name]).peak_rss_bytes
