"""Why there is no energy reading: each case by its name.

A refusal means that no number exists. A number that exists but cannot be trusted stays in its
reading with `valid=False`, and its reason begins with one of the two names at the end.
"""

from __future__ import annotations


class EnergyRefused(Exception):
    """No energy reading; the class says which kind of case, the message the details."""

    @property
    def reason(self) -> str:
        """Name and details in one line, as a record keeps it."""
        return f"{type(self).__name__}: {self}"


class EnergyUnsupported(EnergyRefused):
    """This device cannot be read: no GPU, MIG, or a field that its driver does not support."""


class NoGpu(EnergyUnsupported):
    """No NVIDIA GPU: the normal case on most machines, told in plain words."""

    @property
    def reason(self) -> str:
        return str(self)


class DriverFailed(EnergyRefused):
    """The driver answered before and gives an error now: the GPU was lost, or its driver reset."""


class NotExclusive(EnergyRefused):
    """Another process computes on the board: its energy cannot be told from ours."""


class WindowTooShort(EnergyRefused):
    """Fewer than 20 updates of the counter fit into the window."""


class CounterStuck(EnergyRefused):
    """The counter did not move when it should have."""


class CounterReset(EnergyRefused):
    """The counter went backwards: the driver was reloaded, or the board reset."""


# Names of doubts: the number exists and is kept, marked invalid.
IMPLAUSIBLE = "Implausible"  # mean power below idle or above the board's limit
INCONSISTENT = "Inconsistent"  # counter and integrated power differ by more than 5 %
