"""One GPU board through its driver: energy counter, power, temperature, other processes.

Every access to NVML is here, over nvidia-ml-py (module `pynvml`) or a stand-in with its functions.
A board is found by UUID, because NVML's order and torch's may differ.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from bench.meters.energy.polling import Clock, Sample
from bench.meters.energy.refusals import (
    DriverFailed,
    EnergyUnsupported,
    NoGpu,
    NotExclusive,
)
from bench.meters.time.clocks import DeviceState, read_state, temperature_c

IDLE_UTILISATION = 1  # percent; an idle board may show one
MIG = "MIG: power and energy are those of the whole board"
FAKE = "fake"  # prefix of a stand-in driver's version, and the device of its readings
Device = torch.device | str


def uuid_of(device: torch.device) -> str:
    """NVML's name of a torch device. Raises NoGpu for a CPU or where CUDA is absent."""
    if device.type != "cuda":
        raise NoGpu("no NVIDIA GPU: energy is read from the GPU's own counter")
    if not torch.cuda.is_available():
        raise NoGpu("no NVIDIA GPU: torch sees none")
    # torch leaves the prefix out, NVML requires it.
    uuid = str(torch.cuda.get_device_properties(device).uuid)
    return uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}"


@contextmanager
def open_board(device: Device) -> Iterator[Board]:
    """The board behind a torch device, or with a UUID (then its readings are marked fake).

    A trial names the torch device that it computes on; boards are named by UUID in tests only.
    Raises EnergyUnsupported without a driver or such a board, and under MIG.
    """
    named = isinstance(device, str)
    uuid = device if isinstance(device, str) else uuid_of(device)
    if uuid.startswith("MIG-"):
        raise EnergyUnsupported(MIG)
    import pynvml  # inside: the import itself searches for the driver's library

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        raise EnergyUnsupported(f"NVML is not available: {error}") from error
    try:
        yield Board(pynvml, _handle(pynvml, uuid), FAKE if named else "cuda")
    finally:
        pynvml.nvmlShutdown()


def _handle(nvml: Any, uuid: str) -> Any:
    """NVML's handle of a board. Raises EnergyUnsupported if there is none."""
    try:
        return nvml.nvmlDeviceGetHandleByUUID(uuid)
    except nvml.NVMLError as error:
        # CUDA reports the UUID of a MIG slice as if it were a board's.
        if _is_slice(nvml, uuid):
            raise EnergyUnsupported(MIG) from error
        raise EnergyUnsupported(f"NVML has no board {uuid}: {error}") from error


def _is_slice(nvml: Any, uuid: str) -> bool:
    try:
        return bool(nvml.nvmlDeviceGetHandleByUUID(uuid.replace("GPU-", "MIG-", 1)))
    except nvml.NVMLError:
        return False


class Board:
    """Readings of one board. `device` is cuda, or fake: a fake reading never enters a table."""

    # Other processes that may have a context here, because they wait while this one measures: the
    # other revision in a comparison of two.
    num_partners = 0

    def __init__(self, nvml: Any, handle: Any, device: str) -> None:
        """Find out what the board supports. Raises EnergyUnsupported naming what is missing."""
        self._nvml, self._handle = nvml, handle
        driver = str(self.query("nvmlSystemGetDriverVersion", with_handle=False) or "")
        self.device = FAKE if driver.startswith(FAKE) else device
        mode = self.query("nvmlDeviceGetMigMode")
        if mode is not None and mode[0] == nvml.NVML_DEVICE_MIG_ENABLE:
            raise EnergyUnsupported(MIG)
        self.scope, self.power_source = self._find_power()
        try:
            self.energy_mj()  # boards before Volta have power but no counter
        except DriverFailed as error:
            raise EnergyUnsupported(f"no energy counter ({error})") from error

    def energy_mj(self) -> int:
        """Millijoules since the driver was loaded. Raises DriverFailed."""
        return int(self._require("nvmlDeviceGetTotalEnergyConsumption"))

    def power_w(self) -> float:
        """Watts at this moment (NVML counts milliwatts). Raises DriverFailed."""
        if self.power_source == "nvmlDeviceGetPowerUsage":
            return float(self._require(self.power_source)) / 1e3
        scope = self._nvml.NVML_POWER_SCOPE_GPU
        if self.scope == "module":
            scope = self._nvml.NVML_POWER_SCOPE_MODULE
        found = self._field(self._nvml.NVML_FI_DEV_POWER_INSTANT, scope)
        if isinstance(found, str):
            raise DriverFailed(f"NVML_FI_DEV_POWER_INSTANT: {found}")
        return found / 1e3

    def sample(self, clock: Clock) -> Sample:
        """Counter and power together."""
        now_s = clock.now_s()  # before the queries: a descheduled thread must not postdate them
        return Sample(now_s, self.energy_mj(), self.power_w())

    @property
    def temperature_c(self) -> int | None:
        """Degrees Celsius of the chip; None if the driver does not report them."""
        return temperature_c(self.query, self._nvml)

    @property
    def power_limit_w(self) -> float | None:
        """The enforced power limit; None if the driver does not report it."""
        limit_mw = self.query("nvmlDeviceGetEnforcedPowerLimit")
        return None if limit_mw is None else limit_mw / 1e3

    @property
    def state(self) -> DeviceState:
        """Clocks, temperature and reasons for slowed clocks, now."""
        return read_state(self._nvml, self._handle)

    def refuse_if_shared(self) -> None:
        """Raise NotExclusive where another process has a context on the board.

        In a container NVML may show the host's process numbers or none: a single unknown process
        counts as this one.
        """
        found = self.query("nvmlDeviceGetComputeRunningProcesses") or []
        pids = {process.pid for process in found}
        # An idle process may have no context yet: then the difference below is -1, which is none.
        others = len(pids - {os.getpid()}) if os.getpid() in pids else len(pids) - 1
        if others > self.num_partners:
            raise NotExclusive(f"{others} other process(es) on the board")

    def refuse_if_busy(self) -> None:
        """Raise NotExclusive where the idle board is in use.

        Call it a second after our own work: utilisation is an average over that time.
        """
        rates = self.query("nvmlDeviceGetUtilizationRates")
        if rates is not None and rates.gpu > IDLE_UTILISATION:
            raise NotExclusive(f"{rates.gpu} % utilisation while this process does nothing")

    def facts(self) -> dict[str, Any]:
        """What a reading depends on: driver, board, limits and modes; None: not reported."""
        ecc = self.query("nvmlDeviceGetEccMode")
        return {
            "device": self.device,
            "scope": self.scope,
            "power_source": self.power_source,
            "name": self.query("nvmlDeviceGetName"),
            "uuid": self.query("nvmlDeviceGetUUID"),
            "driver": self.query("nvmlSystemGetDriverVersion", with_handle=False),
            "nvml": self.query("nvmlSystemGetNVMLVersion", with_handle=False),
            "power_limit_w": self.power_limit_w,
            "persistence": self.query("nvmlDeviceGetPersistenceMode"),
            "ecc": None if ecc is None else ecc[0],
            "temperature_c": self.temperature_c,
        }

    def query(self, function: str, *arguments: Any, with_handle: bool = True) -> Any:
        """The result of one of NVML's functions; None where it is not supported."""
        try:
            found = getattr(self._nvml, function)
            return found(self._handle, *arguments) if with_handle else found(*arguments)
        except (self._nvml.NVMLError, AttributeError):  # AttributeError: an older pynvml
            return None

    def _require(self, function: str) -> Any:
        try:
            return getattr(self._nvml, function)(self._handle)
        except self._nvml.NVMLError as error:
            raise DriverFailed(f"{function}: {error}") from error

    def _field(self, field: int, scope: int) -> int | str:
        """A field's value, or why there is none: the call succeeds, each element may fail."""
        try:
            (value,) = self._nvml.nvmlDeviceGetFieldValues(self._handle, [(field, scope)])
        except self._nvml.NVMLError as error:
            return str(error)
        if value.nvmlReturn != self._nvml.NVML_SUCCESS:
            return str(self._nvml.NVMLError(value.nvmlReturn))
        return int(value.value.uiVal)  # power fields are unsigned integers

    def _find_power(self) -> tuple[str, str]:
        """Scope and source of the power reading: of the chip alone, or of the whole module."""
        nvml, why = self._nvml, ""
        for scope, number in (
            ("gpu", nvml.NVML_POWER_SCOPE_GPU),
            ("module", nvml.NVML_POWER_SCOPE_MODULE),
        ):
            found = self._field(nvml.NVML_FI_DEV_POWER_INSTANT, number)
            if not isinstance(found, str):
                return scope, "NVML_FI_DEV_POWER_INSTANT"
            why = why or found
        # Before Ampere the plain reading is instantaneous; later it is the average of a second.
        # An architecture that NVML does not report counts as new.
        before_ampere = (
            self.query("nvmlDeviceGetArchitecture") or 99
        ) < nvml.NVML_DEVICE_ARCH_AMPERE
        if before_ampere and self.query("nvmlDeviceGetPowerUsage") is not None:
            return "gpu", "nvmlDeviceGetPowerUsage"
        raise EnergyUnsupported(f"no instantaneous power to check the counter with ({why})")
