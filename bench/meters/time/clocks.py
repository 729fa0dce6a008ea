"""What the GPU was doing to its clocks while we timed: frequency, temperature, power, events.

A slowdown by heat or by hardware makes a timing round invalid; a software power cap is the board's
normal working point under load and is only noted. Null where NVML has no answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

SLOWDOWNS = (
    "HwSlowdown",
    "HwThermalSlowdown",
    "SwThermalSlowdown",
    "HwPowerBrakeSlowdown",
)
NOTED = ("SwPowerCap",)


@dataclass(frozen=True)
class DeviceState:
    """One look at a GPU; None is what its driver does not tell."""

    sm_mhz: int | None = None
    memory_mhz: int | None = None
    temperature_c: int | None = None
    power_w: float | None = None
    events: tuple[str, ...] = ()  # of SLOWDOWNS and NOTED

    @property
    def slowdown(self) -> str | None:
        """Why a round timed in this state does not count; None if it does."""
        found = [event for event in self.events if event in SLOWDOWNS]
        return f"the GPU slowed its clocks ({', '.join(found)})" if found else None


StateReader = Callable[[], DeviceState | None]


@contextmanager
def state_reader(device: torch.device) -> Iterator[StateReader]:
    """A function that reads `device`'s state; it answers None on a CPU or without NVML."""
    with _opened(device) as found:
        yield (lambda: read_state(*found)) if found else (lambda: None)


def is_exclusive(device: torch.device) -> bool:
    """Whether this process is the only one that computes on `device`, as far as NVML shows.

    Process numbers are not compared: inside a container NVML gives the host's, or none at all.
    """
    with _opened(device) as found:
        if found is None:
            return False
        nvml, handle = found
        try:
            return len(nvml.nvmlDeviceGetComputeRunningProcesses(handle)) == 1
        except nvml.NVMLError:
            return False


@contextmanager
def _opened(device: torch.device) -> Iterator[tuple[Any, Any] | None]:
    """NVML and its handle of `device`; None on a CPU, without a driver or where it is unknown."""
    try:
        if device.type != "cuda":
            raise LookupError("not a GPU")
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # no library or no driver: a machine that tells nothing about its clocks
        yield None
        return
    try:
        try:
            handle = pynvml.nvmlDeviceGetHandleByUUID(_uuid(device))
        except pynvml.NVMLError:
            handle = None
        yield None if handle is None else (pynvml, handle)
    finally:
        pynvml.nvmlShutdown()


def read_state(nvml: Any, handle: Any) -> DeviceState:
    """One look through `nvml` (the pynvml module, or a stand-in with its functions)."""

    def ask(function: str, *arguments: Any) -> Any:
        try:
            return getattr(nvml, function)(handle, *arguments)
        except (nvml.NVMLError, AttributeError):
            return None

    power_mw = ask("nvmlDeviceGetPowerUsage")
    bits = ask("nvmlDeviceGetCurrentClocksEventReasons") or 0
    named = {name: getattr(nvml, f"nvmlClocksEventReason{name}") for name in SLOWDOWNS + NOTED}
    return DeviceState(
        sm_mhz=ask("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_SM),
        memory_mhz=ask("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_MEM),
        temperature_c=temperature_c(ask, nvml),
        power_w=None if power_mw is None else power_mw / 1000,
        events=tuple(name for name, bit in named.items() if bits & bit),
    )


def temperature_c(ask: Callable[..., Any], nvml: Any) -> int | None:
    """Degrees of the chip through `ask(function, *arguments)`; drivers before R565 know the older
    function only."""
    for function in ("nvmlDeviceGetTemperatureV", "nvmlDeviceGetTemperature"):
        found = ask(function, nvml.NVML_TEMPERATURE_GPU)
        if found is not None:
            return int(found)
    return None


def _uuid(device: torch.device) -> str:
    """NVML's name of a torch device: by UUID, because their indices may differ."""
    uuid = str(torch.cuda.get_device_properties(device).uuid)
    return uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}"
