"""Work that a GPU still has to do: waiting for it, and never letting more than two passes queue."""

from __future__ import annotations

from typing import Protocol

import torch


class Launches(Protocol):
    """What is launched and perhaps not finished."""

    def bound(self) -> None:
        """Called after each pass: wait until no pass but the latest is unfinished."""
        ...

    def drain(self) -> None:
        """Wait until everything is finished."""
        ...


class CudaLaunches:
    """A GPU's queue. Unbounded, it would be filled for seconds beyond the end of a window."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._previous: torch.cuda.Event | None = None

    def bound(self) -> None:
        latest = torch.cuda.Event(blocking=True)
        latest.record(torch.cuda.current_stream(self.device))
        if self._previous is not None:
            self._previous.synchronize()
        self._previous = latest

    def drain(self) -> None:
        torch.cuda.synchronize(self.device)
        self._previous = None


class HostLaunches:
    """Work on the host has ended when its call returns."""

    def bound(self) -> None:
        return

    def drain(self) -> None:
        return
