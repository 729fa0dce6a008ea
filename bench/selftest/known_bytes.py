"""The memory meter on work with a known peak, beside ru_maxrss and memray."""

from __future__ import annotations

import resource
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from bench.meters.memory.resident import measure_peak_rss
from bench.meters.memory.tensors import measure_peak_bytes
from bench.meters.memory.window import measure_window

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
    "memray",
]
# Resident bytes may lie so far below and above memray's peak, where all memory is touched.
RESIDENT_BELOW, RESIDENT_ABOVE = 0.01, 8 * MIB
ORDER = 0.01  # largest relative change by the order of the workloads


def big() -> object:
    """20 tensors of 16 MiB."""
    return [torch.zeros(4 * MIB) for _ in range(20)]  # float32: 4 bytes an element


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
    # foreach=True would hold temporaries of all parameters at once, by a rule of its own.
    optimizer = torch.optim.AdamW([weight], foreach=False)
    for _ in range(2):
        optimizer.zero_grad()
        (weight * 2.0).sum().backward()
        optimizer.step()
    return weight


@dataclass(frozen=True)
class Workload:
    """Work, the closed form of its live tensors in bytes, and the accepted range of readings."""

    run: Callable[[], object]
    tensors: int
    min_bytes: int
    max_bytes: int
    is_resident: bool = True  # whether its resident memory is compared with memray's peak
    idle: str = "idle"  # of IDLE: the work whose resident memory is subtracted

    def accepts(self, peak: int) -> bool:
        """Whether a reading is the closed form plus at most the operators' own scratch memory."""
        return self.min_bytes <= peak <= self.max_bytes


def exact(
    run: Callable[[], object], tensors: int, scratch: int = 0, is_resident: bool = True
) -> Workload:
    """A workload that reads at least its tensors, at most `scratch` bytes more."""
    return Workload(run, tensors, tensors, tensors + scratch, is_resident)


# Weight and bias of the convolution; input and output are 32 MiB each.
CONV_OWN = (64 * 64 * 9 + 64) * 4
CONV_TENSORS = 2 * 32 * MIB + CONV_OWN
CONV_PEAK = CONV_TENSORS + 32 * MIB  # oneDNN's workspace; 5 % either way
WORKLOADS = {
    "big": exact(big, 320 * MIB),
    "small": exact(small, 256 * MIB),
    "mlp": exact(mlp, (4 + 32 + 32) * MIB),
    # sort allocates 32 KiB of scratch
    "softmax_sort": exact(softmax_sort, (64 * 3 + 128) * MIB, 64 * 1024),
    "convolution": Workload(
        convolution,
        CONV_TENSORS,
        round(0.95 * CONV_PEAK),
        round(1.05 * CONV_PEAK),
        idle="tiny_convolution",
    ),
    # The first optimiser step imports hundreds of modules: resident memory, but no tensors.
    "train": exact(train, 6 * 32 * MIB, 64, is_resident=False),
}


def workload(name: str) -> Callable[[], object]:
    """The workload of this name, for the child of `measure_peak_rss`."""
    return IDLE[name] if name in IDLE else WORKLOADS[name].run


def tiny_convolution() -> object:
    """Loads the same libraries as a large convolution."""
    with torch.inference_mode():
        return nn.Conv2d(64, 64, 3)(torch.ones(1, 64, 3, 3))


# Subtracted from a child's resident memory: no work, or work that loads the same libraries.
IDLE: dict[str, Callable[[], object]] = {
    "idle": lambda: None,
    "tiny_convolution": tiny_convolution,
}


@dataclass(frozen=True)
class Readings:
    """Bytes of one workload by every meter; memray's is None if it is not installed."""

    growths: list[int]  # of ru_maxrss, first and second run
    first: int  # ours
    second: int
    resident: int
    memray: int | None


def rows_and_failures() -> tuple[list[list[str]], list[str]]:
    """One row per workload, and the closed forms and limits that are missed.

    All readings are taken twice, the second time in the opposite order.
    """
    idle = {name: _resident(name) for name in IDLE}
    found = {name: _readings(name, idle) for name in WORKLOADS}
    again = {name: _readings(name, idle) for name in reversed(WORKLOADS)}
    failed = [why for name in WORKLOADS for why in failures(name, found[name], again[name])]
    return [_row(name, each) for name, each in found.items()], failed


def failures(name: str, found: Readings, again: Readings) -> Iterator[str]:
    """The limits that a workload's readings miss; `again`: those in the opposite order."""
    work = WORKLOADS[name]
    if found.first != found.second or not work.accepts(found.first):
        yield (
            f"memory, {name}: {found.first} and {found.second} bytes, "
            f"allowed {work.min_bytes} to {work.max_bytes}"
        )
    for column in ("first", "resident"):
        before, after = getattr(found, column), getattr(again, column)
        if abs(after - before) > ORDER * before:
            yield f"memory, {name}: {column} reads {before} or {after} bytes, by order of workloads"
    if found.memray is not None and work.is_resident:
        low, high = found.memray * (1 - RESIDENT_BELOW), found.memray + RESIDENT_ABOVE
        if not low <= found.resident <= high:
            yield (
                f"memory, {name}: resident {found.resident} bytes, memray's peak is {found.memray}"
            )


def _readings(name: str, idle: dict[str, int]) -> Readings:
    work = WORKLOADS[name].run
    resident = _resident(name) - idle[WORKLOADS[name].idle]
    # Before our meters run the work: ru_maxrss never falls, so it would not grow after them.
    growths = [_maxrss_growth(work), _maxrss_growth(work)]
    first, second = measure_window(work).peak_bytes, measure_peak_bytes(work)
    return Readings(growths, first, second, resident, memray_peak(work))


def _row(name: str, found: Readings) -> list[str]:
    tensors = WORKLOADS[name].tensors
    sizes = [tensors, found.first, found.second, *found.growths, found.resident]
    cells = [f"{size / MIB:,.1f} MiB" for size in sizes]
    theirs = "not installed" if found.memray is None else f"{found.memray / MIB:,.1f} MiB"
    return [name, *cells[:3], f"{found.first - tensors:+,} B", *cells[3:], theirs]


def memray_peak(work: Callable[[], object]) -> int | None:
    """Bytes allocated at the peak of `work` according to memray; None without memray."""
    try:
        import memray
    except ImportError:
        return None
    # memray's tracker reports through a file only.
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "allocations"
        with memray.Tracker(file):
            work()
        return int(memray.FileReader(file).metadata.peak_memory)


def _maxrss_growth(work: Callable[[], object]) -> int:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    work()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024  # KiB on Linux


def _resident(name: str) -> int:
    return measure_peak_rss("bench.selftest.known_bytes:workload", [name]).peak_rss_bytes
