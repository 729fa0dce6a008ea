"""Which routes elements take through a model's gates, and how deep they get."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from bench.measure.diagnostics.frames import Frame

Entry = dict[str, Any]
PATHS = ("depth_histogram", "exit_histogram", "num_paths", "path_entropy")


def paths(frames: list[Frame], reasons: dict[str, str]) -> Entry:
    """Histograms over elements and the routes that they took, by what gates decide on."""
    nothing: Entry = {**dict.fromkeys(PATHS), "by_frame": None}
    if not frames:
        return unknown(nothing, reasons, "the method announced no decision")
    if len({len(frame.run) for frame in frames}) > 1:
        return unknown(nothing, reasons, "gates decide on different sets of elements")
    groups = _by_shape(frames)
    found = [_paths_of(group) for group in groups]
    by_frame = [
        {"gates": [frame.name for frame in group], **entry}
        for group, entry in zip(groups, found, strict=True)
    ]
    if len(found) > 1:
        whole = unknown(dict.fromkeys(PATHS), reasons, "each frame has its own: see by_frame")
        return {**whole, "by_frame": by_frame}
    if found[0]["exit_histogram"] is None:
        reasons["exit_histogram"] = "what skips one gate may run the next: no exits"
    return {**found[0], "by_frame": by_frame}


def _by_shape(frames: list[Frame]) -> list[list[Frame]]:
    """Frames with the same tokens together; those on whole samples belong to each."""
    wide = [frame.ran.shape for frame in frames if frame.ran.dim() > 1] or [frames[0].ran.shape]
    return [
        [frame for frame in frames if frame.ran.shape in (shape, shape[:1])]
        for shape in dict.fromkeys(wide)
    ]


def _paths_of(frames: list[Frame]) -> Entry:
    """The four fields of frames with the same elements."""
    shape = max((frame.ran.shape for frame in frames), key=len)
    real = torch.stack([_spread(frame.real, shape) for frame in frames]).all(0)
    # What no gate decides about, such as a class token that never halts, takes no route.
    asked = [_spread(frame.decided, shape) for frame in frames if frame.decided is not None]
    asked += [_spread(frame.stays, shape) for frame in frames if frame.stays is not None]
    if asked:
        real = real & torch.stack(asked).any(0)
    ran = [_spread(frame.ran, shape)[real] for frame in frames]  # each [M]
    depth = _shares(torch.stack(ran).sum(0), len(frames))
    nested = all(bool((later <= earlier).all()) for earlier, later in pairwise(ran))
    is_exit = nested and not any(frame.has_units for frame in frames)
    routes = _routes(frames, shape, real)
    return {"depth_histogram": depth, "exit_histogram": depth if is_exit else None, **routes}


def _spread(ran: Tensor, shape: torch.Size) -> Tensor:
    """A decision on samples stands for all of their tokens."""
    return ran if ran.shape == shape else ran[:, None].expand(shape)


def _routes(frames: list[Frame], shape: torch.Size, real: Tensor) -> Entry:
    columns = []
    for frame in frames:
        choices = frame.run if frame.has_units else frame.ran[..., None]
        wide = choices if choices.shape[:-1] == shape else choices[:, None].expand(*shape, -1)
        columns.append(wide[real])
    bits = torch.cat(columns, 1).numpy()
    _, counts = np.unique(np.packbits(bits, axis=1), axis=0, return_counts=True)
    return {"num_paths": len(counts), "path_entropy": float(stats.entropy(counts))}


def _shares(depth: Tensor, most: int) -> list[float]:
    counts = torch.bincount(depth.flatten(), minlength=most + 1).double()
    return [float(share) for share in counts / counts.sum()]


def unknown(entry: Entry, reasons: dict[str, str], why: str) -> Entry:
    """`entry`, null as it is, with a reason for each of its fields."""
    reasons |= dict.fromkeys(entry, why)
    return entry
