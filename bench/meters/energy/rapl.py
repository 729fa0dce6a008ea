"""Joules of the CPU packages through Linux's powercap files (RAPL), where they can be read.

They include everything that runs on the packages, not only this process, and exclude memory
modules, disks and the power supply: a column of its own, not to be added to a GPU's. Only root can
read them since Linux 5.10 (CVE-2020-8694), and virtual machines have none: then there is a reason
and no number; nothing is estimated from a processor's rated power.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from pathlib import Path

from bench.meters.busy_threads import METER_THREADS
from bench.meters.energy.calibration import Step
from bench.meters.energy.refusals import EnergyUnsupported, WindowTooShort

POWERCAP = Path("/sys/class/powercap")
SHORTEST_S = 1.0  # the files are updated every millisecond: an error of 0.1 %
POLL_S = 10.0  # between reads: a counter of 262 kJ wraps after 4 minutes at 1 kW


@dataclass(frozen=True)
class CpuReading:
    """Joules of all packages while whole passes ran."""

    gross_j: float
    window_s: float
    num_passes: int

    @property
    def j_per_pass(self) -> float:
        """Joules of one pass."""
        return self.gross_j / self.num_passes


class CpuEnergy:
    """The packages' counters, added up across their wraps.

    Raises EnergyUnsupported where there is no package or its counter cannot be read.
    """

    def __init__(self, root: Path = POWERCAP) -> None:
        self._zones = _packages(root)
        self._ranges = [_number(zone / "max_energy_range_uj") for zone in self._zones]
        self._last = self._read()
        self._total_uj = 0
        self._lock = threading.Lock()  # `CpuSpan` reads from a thread of its own

    def joules(self) -> float:
        """Joules since construction. Call it at least once per wrap (minutes) in between."""
        with self._lock:
            now = self._read()
            for old, new, whole in zip(self._last, now, self._ranges, strict=True):
                # A smaller value means exactly one wrap, if reads are frequent enough.
                self._total_uj += new - old if new >= old else new - old + whole
            self._last = now
            return self._total_uj / 1e6

    def measure(self, step: Step, seconds: float) -> CpuReading:
        """Whole passes of `step` for `seconds`. Raises WindowTooShort below 1 s."""
        if seconds < SHORTEST_S:
            raise WindowTooShort(f"{seconds:.3g} s; CPU counters need at least {SHORTEST_S:g} s")
        with CpuSpan(self) as span:
            num_passes = 0
            while num_passes == 0 or time.monotonic() - span.begun_s < seconds:
                step()
                num_passes += 1
        return CpuReading(span.gross_j, span.window_s, num_passes)

    def _read(self) -> list[int]:
        return [_number(zone / "energy_uj") for zone in self._zones]


class CpuSpan:
    """Joules between entry and exit, however long; a thread reads in between because of wraps."""

    def __init__(self, counter: CpuEnergy, poll_s: float = POLL_S) -> None:
        self._counter, self._poll_s = counter, poll_s
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._poll, name="rapl", daemon=True)
        self.gross_j = self.window_s = self.begun_s = 0.0

    def __enter__(self) -> CpuSpan:
        self._begun_j, self.begun_s = self._counter.joules(), time.monotonic()
        # It computes nothing: FLOP counts inside the span must not flag it.
        METER_THREADS.add(self._thread)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()
        self.gross_j = self._counter.joules() - self._begun_j
        self.window_s = time.monotonic() - self.begun_s

    def _poll(self) -> None:
        while not self._ended.wait(self._poll_s):
            try:
                self._counter.joules()
            except EnergyUnsupported:
                return  # the read on exit raises it again


def _packages(root: Path) -> list[Path]:
    """Folders of whole packages, without the cores and memory inside them."""
    # Names like intel-rapl:0:1 are parts; intel-rapl-mmio:0 is another interface to a package.
    zones = sorted(zone for zone in root.glob("intel-rapl:*") if zone.name.count(":") == 1)
    found = [zone for zone in zones if _text(zone / "name").startswith("package")]
    if not found:
        raise EnergyUnsupported(
            f"no RAPL: {root} shows no CPU package (virtual machines have none)"
        )
    return found


def _number(path: Path) -> int:
    try:
        return int(path.read_text(encoding="ascii"))
    except PermissionError as error:
        raise EnergyUnsupported(f"RAPL: {path} needs root since Linux 5.10") from error
    except (OSError, ValueError) as error:
        raise EnergyUnsupported(f"RAPL: {path} cannot be read ({error})") from error


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        return ""
