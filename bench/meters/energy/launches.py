"""Queued work: waiting for it, and limiting the queue of a GPU to two passes."""

from __future__ import annotations

from typing import Protocol

import torch


class Launches(Protocol):
    """Work that was launched and may be unfinished."""

    def bound(self) -> None:
        """Call after each pass: waits until all passes but the latest have finished."""
        ...

    def drain(self) -> None:
        """Wait until all work has finished."""
        ...


class CudaLaunches:
    """The queue of a GPU. Without a bound it would hold seconds of work at a window's end."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._previous: torch.cuda.Event | None = None

    def bound(self) -> None:
        # `blocking`: waiting in a spin would take a core, and the polling thread needs one.
        latest = torch.cuda.Event(blocking=True)
        latest.record(torch.cuda.current_stream(self.device))
        # Waiting for the latest pass instead would leave the GPU idle between passes.
        if self._previous is not None:
            self._previous.synchronize()
        self._previous = latest

    def drain(self) -> None:
        torch.cuda.synchronize(self.device)
        self._previous = None


class HostLaunches:
    """Work on the host has finished when its call returns."""

    def bound(self) -> None:
        return

    def drain(self) -> None:
        return
