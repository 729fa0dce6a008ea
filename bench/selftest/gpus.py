"""GPUs: boards of the driver and of torch, supported fields, MIG, other processes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bench.meters.energy.board import Board
from bench.meters.energy.refusals import DriverFailed, EnergyRefused, NotExclusive
from bench.selftest.finding import Finding, Status

PART = "gpu"


def examine_gpus() -> Iterator[Finding]:
    """One finding about the driver, then several per board."""
    try:
        import pynvml  # inside: the import itself searches for the driver's library

        pynvml.nvmlInit()
    except Exception as error:  # no library or no driver: a machine without a GPU
        yield Finding(PART, "driver", "no", f"NVML is not available: {error}")
        return
    try:
        try:
            count = pynvml.nvmlDeviceGetCount()
            version = str(pynvml.nvmlSystemGetDriverVersion())
        except pynvml.NVMLError as error:
            yield Finding(PART, "driver", "failed", f"NVML runs, but lists no boards: {error}")
            return
        yield Finding(PART, "driver", "ok", f"version {version}, {count} board(s)")
        yield _torch(count)
        for index in range(count):
            yield from _board(pynvml, index)
    finally:
        pynvml.nvmlShutdown()


def _torch(num_boards: int) -> Finding:
    import torch  # inside: importing it takes seconds, which a machine without a driver saves

    seen = torch.cuda.device_count() if torch.cuda.is_available() else 0
    text = f"torch {torch.__version__} computes on {seen} of {num_boards} board(s)"
    if seen:
        return Finding(PART, "torch", "ok", text, {"num_devices": seen})
    cuda = torch.version.cuda
    why = f"built for CUDA {cuda}: driver too old, or boards hidden" if cuda else "a build for CPUs"
    return Finding(PART, "torch", "warning", f"{text} ({why})", {"num_devices": 0})


def _board(nvml: Any, index: int) -> Iterator[Finding]:
    name = f"board {index}"
    try:
        # By index: boards that CUDA hides from this process are examined too.
        board = Board(nvml, nvml.nvmlDeviceGetHandleByIndex(index), "cuda")
    except (EnergyRefused, nvml.NVMLError) as refusal:
        yield Finding(PART, f"{name} energy", "no", str(refusal))
        return
    facts = board.facts()
    text = f"{facts['name']}, {facts['uuid']}, limit {facts['power_limit_w']} W"
    yield Finding(PART, name, "ok", text, facts)
    yield _energy(board, name, facts["power_source"])
    yield _processes(board, name)
    slowdown = board.state.slowdown
    status: Status = "warning" if slowdown else "ok"
    yield Finding(PART, f"{name} clocks", status, slowdown or "not slowed down")


def _energy(board: Board, name: str, source: str) -> Finding:
    try:
        power_w = board.power_w()
    except DriverFailed as failure:
        return Finding(PART, f"{name} energy", "failed", failure.reason)
    text = f"counter and {source}, scope {board.scope}, {power_w:.0f} W now"
    # Power of a module includes its CPU and memory: it has a column of its own.
    status: Status = "ok" if board.scope == "gpu" else "warning"
    return Finding(PART, f"{name} energy", status, text)


def _processes(board: Board, name: str) -> Finding:
    """Whether other processes compute on the board."""
    # This process has no context of its own on it, so every process that is listed is another.
    processes = board.query("nvmlDeviceGetComputeRunningProcesses")
    try:
        board.refuse_if_busy()
    except NotExclusive as refusal:
        return Finding(PART, f"{name} processes", "warning", str(refusal))
    if processes is None:
        text = "the driver does not list processes"
        return Finding(PART, f"{name} processes", "warning", text)
    if processes:
        text = f"{len(processes)} process(es): no energy readings while they run"
        return Finding(PART, f"{name} processes", "warning", text)
    return Finding(PART, f"{name} processes", "ok", "no other processes")
