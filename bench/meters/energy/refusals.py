"""Exceptions for missing energy readings: one class per case, whose name a record shows.

A refusal means that no number exists. A number that exists but is doubtful stays in its reading
with `valid=False`, and its reason begins with one of the names at the end.
"""

from __future__ import annotations


class EnergyRefused(Exception):
    """No energy reading; the class names the case, the message the details."""

    @property
    def reason(self) -> str:
        """Name and details in one line, as a record keeps it."""
        return f"{type(self).__name__}: {self}"


class EnergyUnsupported(EnergyRefused):
    """This device cannot be read: no GPU, MIG, or a field that its driver does not support."""


class NoGpu(EnergyUnsupported):
    """No NVIDIA GPU: the normal case on most machines, so its reason has no class name."""

    @property
    def reason(self) -> str:
        return str(self)


class DriverFailed(EnergyRefused):
    """A query that worked before now fails: the GPU was lost, or its driver reset."""


class NotExclusive(EnergyRefused):
    """Another process computes on the board: its energy cannot be separated from ours."""


class WindowTooShort(EnergyRefused):
    """Fewer than 20 updates of the counter fit into the window."""


class CounterStuck(EnergyRefused):
    """The counter was not updated for five periods."""


class CounterLags(EnergyRefused):
    """Seconds after the work the counter still shows its power: what it lacks is unknown."""


class CounterReset(EnergyRefused):
    """The counter decreased: the driver was reloaded, or the board or package reset."""


class CounterJumped(EnergyRefused):
    """The counter gained more than its package can draw in that time."""


class WrapsMissed(EnergyRefused):
    """The counter was read so seldom that it may have wrapped unseen."""


class NoEnergy(EnergyRefused):
    """A reading of 0 J or less: whatever the board did, it drew power."""


# Names for reasons of invalid readings: the number exists and is kept.
IMPLAUSIBLE = "Implausible"  # mean power below idle or above the board's limit
INCONSISTENT = "Inconsistent"  # counter and integrated power differ by more than 5 %
UNCERTAIN = "Uncertain"  # an uncertainty of more than 10 %
UNCHECKED = "Unchecked"  # one stretch of work, and power readings that may be the counter's own
