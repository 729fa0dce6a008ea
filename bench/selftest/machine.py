"""The processor and its other load, CPU energy, folders of results and data, optional packages."""

from __future__ import annotations

import importlib.util
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bench.launch.devices import Machine
from bench.meters.energy.rapl import CpuEnergy
from bench.meters.energy.refusals import EnergyRefused
from bench.records import environment
from bench.selftest.finding import Finding, Status

MACHINE, DATA = "machine", "data"
GIB = 2**30
BUSY = 0.5  # load per core; above it, timings are disturbed
LEAST_FREE_GIB = 2.0
# Optional packages, and the option that needs each.
TASK_PACKAGES = {"num2words": "task=numbers", "sacrebleu": "task=numbers"}


def examine_machine() -> Iterator[Finding]:
    """Processor, threads, load, frequency control, memory, package energy."""
    seen = environment.fingerprint()
    cores, physical = seen["num_cores"], seen["num_physical_cores"]
    text = f"{seen['cpu_model']}, {cores} logical cores of {physical} physical ones"
    yield Finding(MACHINE, "cpu", "ok", text, {"num_cores": cores, "num_physical_cores": physical})
    yield _threads(seen["thread_settings"], physical)
    yield _load(seen["load_1min"], cores)
    yield _trials()
    governor = seen["governor"]
    text = f"governor {governor}" if governor else "not shown by this machine (a virtual one?)"
    # Other governors change the clock with the load, that is between a model and its baseline.
    slow = governor not in (None, "performance")
    yield Finding(
        MACHINE,
        "frequency",
        "warning" if slow else "ok",
        text + ("; times vary less with the governor performance" if slow else ""),
        {"governor": governor},
    )
    memory = seen["memory_bytes"] / GIB
    yield Finding(MACHINE, "memory", "ok", f"{memory:.1f} GiB", {"bytes": seen["memory_bytes"]})
    yield _rapl()


def _threads(settings: dict[str, str | None], physical: int) -> Finding:
    """Threads per trial, and environment variables that set other numbers."""
    given = {name: value for name, value in settings.items() if value is not None}
    text = f"a trial uses {physical} (gpu.threads=N for another number)"
    if given:
        text += "; set from outside: " + ", ".join(f"{k}={v}" for k, v in given.items())
    return Finding(MACHINE, "threads", "ok", text, {"num_threads": physical, **given})


def _load(load: float, cores: int) -> Finding:
    busy = load > BUSY * cores  # the average includes this process itself
    text = f"{load:.2f} over the last minute on {cores} cores"
    if busy:
        text += ": other processes disturb timings (ratios less than absolute times)"
    status: Status = "warning" if busy else "ok"
    return Finding(MACHINE, "load", status, text, {"load_1min": load})


def _trials() -> Finding:
    """Whether a trial of this user runs on the host, which a self-test would disturb."""
    # A trial holds the host's lock for as long as it runs; taking it proves that there is none.
    host: tuple[tuple[str, ...], ...] = ((),)
    machine = Machine.detect()
    claim = machine.claim(host)
    if claim is None:
        text = f"one is running ({machine.holders(host)}): this examination disturbs it"
        return Finding(MACHINE, "trials", "warning", text)
    claim.release()
    return Finding(MACHINE, "trials", "ok", "none is running")


def _rapl() -> Finding:
    try:
        CpuEnergy()  # reads the counters once, so that missing permission shows
    except EnergyRefused as refusal:
        return Finding(MACHINE, "cpu energy", "no", str(refusal))
    return Finding(MACHINE, "cpu energy", "ok", "package counters (RAPL) can be read")


def examine_data(results: Path) -> Iterator[Finding]:
    """Free space for results and temporary files, and packages that some tasks need."""
    for name, folder in (("results", results), ("temporary", Path(tempfile.gettempdir()))):
        yield _folder(name, folder)
    for package, task in TASK_PACKAGES.items():
        installed = importlib.util.find_spec(package) is not None
        missing = f"{task} needs it: pip install condbench[tasks]"
        text = f"installed, for {task}" if installed else missing
        yield Finding(DATA, package, "ok" if installed else "no", text)


def _folder(name: str, folder: Path) -> Finding:
    """Whether a folder, or the nearest existing parent, is writable and has free space."""
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free / GIB
    details = {"path": str(folder), "free_gib": round(free, 1)}
    if not os.access(place, os.W_OK):
        return Finding(DATA, name, "failed", f"{place} is not writable", details)
    status: Status = "ok" if free >= LEAST_FREE_GIB else "warning"
    return Finding(DATA, name, status, f"{folder}, {free:.1f} GiB free", details)
