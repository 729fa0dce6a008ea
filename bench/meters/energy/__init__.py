"""Energy: joules of a GPU board from its own counter, of CPU packages through RAPL."""

from __future__ import annotations

from bench.meters.energy.meter import EnergyMeter
from bench.meters.energy.reading import EnergyReading
from bench.meters.energy.refusals import (
    CounterReset,
    CounterStuck,
    DriverFailed,
    EnergyRefused,
    EnergyUnsupported,
    NotExclusive,
    WindowTooShort,
)

__all__ = [
    "CounterReset",
    "CounterStuck",
    "DriverFailed",
    "EnergyMeter",
    "EnergyReading",
    "EnergyRefused",
    "EnergyUnsupported",
    "NotExclusive",
    "WindowTooShort",
]
