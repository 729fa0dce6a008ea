"""Real-time scenarios with the stand-in driver, in a process of their own; prints JSON by scenario.

    LD_LIBRARY_PATH=FOLDER python -m tests.fakes.nvml_driver

nvidia-ml-py is the real one; the library that it loads is ours.
"""

from __future__ import annotations

import ctypes
import json
import os
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pynvml
import torch

from bench.launch.devices import visible_gpus
from bench.meters.energy import EnergyMeter, EnergyRefused
from bench.meters.energy.board import open_board
from bench.meters.energy.calibration import Calibration
from bench.records import environment
from bench.selftest.gpus import examine_gpus

ACTIVE_W, IDLE_W = 500.0, 75.0
KNOWN = Calibration(0.01, None, resolution_mj=1, idle_w=IDLE_W, idle_s=1.0)


def uuid(board: int) -> str:
    return f"GPU-{0xA0000000 + board:08x}-0000-0000-0000-00000000fa4e"


class Driver:
    """The stand-in's own functions, in the library that nvidia-ml-py has loaded."""

    def __init__(self) -> None:
        pynvml.nvmlInit()
        self._lib = pynvml.nvmlLib
        self._lib.fake_power.argtypes = [ctypes.c_int, ctypes.c_double]
        self._lib.fake_set.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_double]
        self._lib.fake_fail.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int]

    def begun_s(self) -> float:
        self._lib.fake_begun_s.restype = ctypes.c_double
        return self._lib.fake_begun_s()

    def power(self, board: int, watts: float) -> None:
        self._lib.fake_power(board, watts)

    def set(self, board: int, **values: float) -> None:
        for name, value in values.items():
            assert self._lib.fake_set(board, name.encode(), value) == 0, name

    def fail(self, board: int, **codes: int) -> None:
        for name, code in codes.items():
            assert self._lib.fake_fail(board, name.encode(), code) == 0, name

    def work(self, board: int, seconds: float = 0.013) -> Callable[[], None]:
        """A pass of so many real seconds at 500 W."""

        def step() -> None:
            self.power(board, ACTIVE_W)
            time.sleep(seconds)
            self.power(board, IDLE_W)

        return step


def readings(driver: Driver) -> dict[str, Any]:
    """Windows of 0.9 s: without load, fully loaded, and fully loaded with two boards at work."""
    found = {}
    with EnergyMeter(uuid(1)) as meter:
        known = meter.calibrate(1.0, driver.work(1))
        found["period_s"], found["idle_w"] = known.update_period_s, known.idle_w
        meter._settled_w = IDLE_W  # nothing ran before: no second of waiting
        found["idle"] = as_dict(meter.measure(lambda: time.sleep(0.01), 0.9))
        driver.power(1, ACTIVE_W)  # the whole time: the true energy is power x duration
        meter._settled_w = ACTIVE_W  # and at rest as well
        found["loaded"] = as_dict(meter.measure(lambda: time.sleep(0.01), 0.9))
        driver.power(0, ACTIVE_W)
        driver.power(1, IDLE_W)
        found["other"] = as_dict(meter.measure(lambda: time.sleep(0.01), 0.9))
    driver.power(0, IDLE_W)
    return found


def as_dict(reading: Any) -> dict[str, Any]:
    return {
        "gross_j": reading.gross_j,
        "window_s": reading.window_s,
        "mean_power_w": reading.mean_power_w,
        "integral_ratio": reading.integral_ratio,
        "device": reading.device,
        "scope": reading.scope,
        "reason": reading.reason,
    }


def part_time(driver: Driver) -> dict[str, Any]:
    """A sensor that sees 5 of 20 ms, and a load that works 10 of 20 ms around those 5."""
    driver.set(0, part_s=0.005)
    begun_s = driver.begun_s() - 0.002

    def half_busy() -> None:
        time.sleep(0.02 - (time.monotonic() - begun_s) % 0.02)
        driver.work(0, 0.01)()

    with EnergyMeter(uuid(0)) as meter:
        meter.calibrate(0.2, half_busy)
        meter._settled_w = IDLE_W
        found = as_dict(meter.measure(half_busy, 0.9))
    driver.set(0, part_s=0)
    return found


def refusals(driver: Driver) -> dict[str, Any]:
    """The refusal for every fault of a board; the board is reset after each."""
    lost, unsupported = pynvml.NVML_ERROR_GPU_IS_LOST, pynvml.NVML_ERROR_NOT_SUPPORTED
    at_once: dict[str, tuple[dict, dict]] = {
        "stuck": ({"stuck": 1}, {}),
        "mig": ({"mig": 1}, {}),
        "foreign process": ({"num_foreign": 1}, {}),
        "busy": ({"utilisation": 40}, {}),
        "no counter": ({}, {"energy": unsupported}),
        "no power field": ({}, {"power": unsupported}),
        "field call fails": ({}, {"fields": unsupported}),
    }
    later: dict[str, tuple[dict, dict]] = {
        "stuck in the middle": ({"stuck": 1}, {}),
        "reset in the middle": ({"offset_mj": 5e8}, {}),
        "counter lost in the middle": ({}, {"energy": lost}),
        "power lost in the middle": ({}, {"power": lost}),
        "foreign process in the middle": ({"num_foreign": 1}, {}),
    }
    found = {}
    driver.set(0, update_s=0.01)
    for name, (values, codes) in at_once.items():
        found[name] = refusal(driver, lambda v=values, c=codes: inject_fault(driver, v, c), None)
    for name, (values, codes) in later.items():
        found[name] = refusal(driver, None, lambda v=values, c=codes: inject_fault(driver, v, c))
    driver.set(0, module=1)
    with EnergyMeter(uuid(0)) as meter:
        meter._calibration = KNOWN
        found["module scope"] = as_dict(meter.measure(driver.work(0), 0.4))
    driver.set(0, module=0, update_s=0.04)
    found["too short"] = refusal(driver, None, None)
    return found


def inject_fault(driver: Driver, values: dict, codes: dict) -> None:
    driver.set(0, **values)
    driver.fail(0, **codes)


def refusal(driver: Driver, before: Callable | None, during: Callable | None) -> dict[str, Any]:
    """The refusal of a window of 0.4 s with a fault before the meter opens, or half-way."""
    work, num_passes = driver.work(0), 0

    def step() -> None:
        nonlocal num_passes
        num_passes += 1
        work()
        if during and num_passes == 3:
            during()
            time.sleep(0.4)  # even on a busy host the window continues after the fault

    try:
        if before:
            before()
        with EnergyMeter(uuid(0)) as meter:
            meter._settled_w = IDLE_W  # nothing ran before: no second of waiting in each scenario
            if during:
                meter._calibration = KNOWN  # a busy host may not calibrate; the refusal is the same
            else:
                meter.calibrate(0.2, work)
            return as_dict(meter.measure(step, 0.4))
    except EnergyRefused as refused:
        return {"name": type(refused).__name__, "reason": refused.reason}
    finally:
        driver.set(0, stuck=0, mig=0, num_foreign=0, utilisation=0, offset_mj=0)
        driver.fail(0, energy=0, power=0, fields=0, mig=0)


def devices(driver: Driver) -> dict[str, Any]:
    """The board of each torch device, for several CUDA_VISIBLE_DEVICES."""
    found = {"": boards_of_torch()}
    for names in ("2,0", f"GPU-a0000001,{uuid(0)}", "1"):
        os.environ["CUDA_VISIBLE_DEVICES"] = names
        found[names] = boards_of_torch()
    hardware = environment.hardware_class("cuda")
    return {"boards": found, "hardware": hardware, "slice": refusal_of_a_slice()}


def refusal_of_a_slice() -> str:
    """torch gives a MIG slice's UUID, which NVML knows under another prefix."""
    slice_uuid = "51ce0000-0000-0000-0000-00000000fa4e"
    torch.cuda.get_device_properties = lambda device: SimpleNamespace(  # type: ignore[assignment]
        uuid=slice_uuid
    )
    try:
        EnergyMeter(torch.device("cuda", 0))
    except EnergyRefused as refused:
        return refused.reason
    return "none"


def boards_of_torch() -> list[dict[str, str]]:
    names = visible_gpus()
    # torch numbers what CUDA_VISIBLE_DEVICES leaves; without CUDA that part is played here.
    torch.cuda.is_available = lambda: True  # type: ignore[assignment]
    torch.cuda.get_device_properties = lambda device: SimpleNamespace(  # type: ignore[assignment]
        uuid=names[device.index].removeprefix("GPU-")
    )
    found = []
    for index in range(len(names)):
        with open_board(torch.device("cuda", index)) as board:
            facts = board.facts()
            found.append({key: facts[key] for key in ("uuid", "device")})
    return found


def doctor(driver: Driver) -> dict[str, str]:
    """The doctor's findings for boards of which one has MIG, one a foreign process."""
    del os.environ["CUDA_VISIBLE_DEVICES"]
    driver.set(1, mig=1)
    driver.set(2, module=1)
    return {finding.name: f"{finding.status}: {finding.text}" for finding in examine_gpus()}


if __name__ == "__main__":
    scenarios = (readings, part_time, refusals, devices, doctor)
    made = Driver()
    print(json.dumps({scenario.__name__: scenario(made) for scenario in scenarios}))
