"""GPU state while timing: clock frequencies, temperature, power and clock event reasons.

A slowdown by heat or by hardware makes a timing round invalid; a software power cap is the board's
normal working point under load and is only recorded. None where NVML does not support a query.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

# Suffixes of NVML's nvmlClocksEventReason constants.
SLOWDOWNS = (
    "HwSlowdown",
    "HwThermalSlowdown",
    "SwThermalSlowdown",
    "HwPowerBrakeSlowdown",
)
RECORDED = ("SwPowerCap",)  # recorded, but no reason to discard a round


@dataclass(frozen=True)
class DeviceState:
    """State of a GPU at one moment; None: not reported by its driver."""

    sm_mhz: int | None = None
    memory_mhz: int | None = None
    temperature_c: int | None = None
    power_w: float | None = None
    events: tuple[str, ...] = ()  # of SLOWDOWNS and RECORDED

    @property
    def slowdown(self) -> str | None:
        """Why a round timed in this state is invalid; None if it is valid."""
        found = [event for event in self.events if event in SLOWDOWNS]
        return f"the GPU slowed its clocks ({', '.join(found)})" if found else None


StateReader = Callable[[], DeviceState | None]


@contextmanager
def state_reader(device: torch.device) -> Iterator[StateReader]:
    """A function that reads `device`'s state; it returns None on a CPU or without NVML."""
    with _open_nvml(device) as found:
        yield (lambda: read_state(*found)) if found else (lambda: None)


def is_exclusive(device: torch.device) -> bool:
    """Whether this process is the only one that computes on `device`, as far as NVML shows.

    Process numbers are not compared: inside a container NVML shows the host's, or none at all.
    """
    with _open_nvml(device) as found:
        if found is None:
            return False
        nvml, handle = found
        try:
            # Exactly one: this process has a CUDA context, since it owns the device object.
            return len(nvml.nvmlDeviceGetComputeRunningProcesses(handle)) == 1
        except nvml.NVMLError:
            return False


@contextmanager
def _open_nvml(device: torch.device) -> Iterator[tuple[Any, Any] | None]:
    """NVML and its handle of `device`; None on a CPU, without a driver or such a device."""
    try:
        if device.type != "cuda":
            raise LookupError("not a GPU")
        import pynvml

        pynvml.nvmlInit()  # counted by NVML: each needs its own shutdown
    except Exception:  # no library or no driver: clocks cannot be read on this machine
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
    """The state now, through `nvml` (the pynvml module, or a stand-in with its functions)."""

    def query(function: str, *arguments: Any) -> Any:
        try:
            return getattr(nvml, function)(handle, *arguments)
        except (nvml.NVMLError, AttributeError):  # not supported here, or by this pynvml
            return None

    power_mw = query("nvmlDeviceGetPowerUsage")
    bits = query("nvmlDeviceGetCurrentClocksEventReasons") or 0
    named = {name: getattr(nvml, f"nvmlClocksEventReason{name}") for name in SLOWDOWNS + RECORDED}
    return DeviceState(
        sm_mhz=query("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_SM),
        memory_mhz=query("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_MEM),
        temperature_c=temperature_c(query, nvml),
        power_w=None if power_mw is None else power_mw / 1000,
        events=tuple(name for name, bit in named.items() if bits & bit),
    )


def temperature_c(query: Callable[..., Any], nvml: Any) -> int | None:
    """Degrees Celsius of the chip, through `query(function, *arguments)`; None if not reported."""
    # Drivers before R565 have the second function only.
    for function in ("nvmlDeviceGetTemperatureV", "nvmlDeviceGetTemperature"):
        found = query(function, nvml.NVML_TEMPERATURE_GPU)
        if found is not None:
            return int(found)
    return None


def _uuid(device: torch.device) -> str:
    """NVML's identifier of a torch device: the UUID, because their indices may differ."""
    uuid = str(torch.cuda.get_device_properties(device).uuid)
    # torch leaves the prefix out, NVML requires it.
    return uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}"
