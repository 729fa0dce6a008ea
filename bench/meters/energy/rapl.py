"""Joules of the CPU packages through Linux's powercap files (RAPL), where they can be read.

They include everything that runs on the packages, not only this process, and exclude memory
modules, disks and the power supply: a column of its own, not to be added to a GPU's. Only root can
read them since Linux 5.10 (CVE-2020-8694), and virtual machines have none: then there is a reason
and no number; nothing is estimated from a processor's rated power.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path

from bench.meters.busy_threads import METER_THREADS
from bench.meters.energy.calibration import Step
from bench.meters.energy.polling import Clock, MonotonicClock
from bench.meters.energy.reading import BELOW_IDLE
from bench.meters.energy.refusals import IMPLAUSIBLE, CounterStuck, EnergyRefused, WindowTooShort
from bench.meters.energy.zone import Zone, packages

POWERCAP = Path("/sys/class/powercap")
SHORTEST_S = 1.0  # the files are updated every millisecond: an error of 0.1 %
IDLE_S = 1.0  # of measuring the idle packages
# Seconds between reads: a reset can hide as a wrap only by what a package draws in between.
POLL_S = 1.0


@dataclass(frozen=True)
class CpuReading:
    """Joules of all packages while whole passes ran."""

    gross_j: float
    window_s: float
    num_passes: int
    idle_w: float = 0.0  # watts of the packages before the work

    @property
    def net_j(self) -> float:
        """Gross energy less the idle packages'."""
        return self.gross_j - self.idle_w * self.window_s

    @property
    def j_per_pass(self) -> float:
        """Joules of one pass."""
        return self.gross_j / self.num_passes

    @property
    def reason(self) -> str | None:
        """The reason why the joules are invalid; None if they are valid."""
        return below_idle(self.gross_j, self.window_s, self.idle_w)


class CpuEnergy:
    """The packages' counters, added up across their wraps.

    Raises EnergyUnsupported where there is no package or its counter cannot be read. After a
    refusal every later read raises it again: what was lost in between is unknown.
    """

    def __init__(self, root: Path = POWERCAP, clock: Clock | None = None) -> None:
        self._clock = clock or MonotonicClock()
        self._zones = [Zone(folder, self._clock.now_s()) for folder in packages(root)]
        self._lock = threading.Lock()  # `CpuSpan` reads from a thread of its own
        self._refused: EnergyRefused | None = None
        self._idle_w: float | None = None

    def joules(self) -> float:
        """Joules since construction. Call it at least once per wrap (minutes) in between.

        Raises the refusals of `Zone.advance`.
        """
        return sum(self.joules_by_zone().values())

    def joules_by_zone(self) -> dict[str, float]:
        """Joules of each package since construction. Raises as `joules` does."""
        with self._lock:
            try:
                if self._refused is not None:
                    raise self._refused
                for zone in self._zones:
                    zone.advance(self._clock.now_s())
            except EnergyRefused as refusal:
                self._refused = refusal
                raise
            # By number: two packages may have one name.
            return {f"{k} {zone.name}": zone.total_j for k, zone in enumerate(self._zones)}

    def watch(self) -> None:
        """From now on a counter that does not move for a second is refused by `refuse_stuck`."""
        for zone in self._zones:
            zone.watch(self._clock.now_s())

    def refuse_stuck(self) -> None:
        """Raise CounterStuck where a package's counter stands still."""
        for zone in self._zones:
            zone.refuse_stuck()

    def now_s(self) -> float:
        """Now, on the clock of the reads."""
        return self._clock.now_s()

    def measure_idle_w(self) -> float:
        """Watts of the packages while this process sleeps for a second; measured once.

        Other processes of the machine are in it, as they are in every reading.
        """
        if self._idle_w is None:
            begin_j, begin_s = self.joules(), self.now_s()
            self._clock.sleep(IDLE_S)
            self._idle_w = (self.joules() - begin_j) / (self.now_s() - begin_s)
        return self._idle_w

    def measure(self, step: Step, seconds: float) -> CpuReading:
        """Whole passes of `step` for `seconds`.

        Raises WindowTooShort below 1 s, and as `CpuSpan` does.
        """
        if seconds < SHORTEST_S:
            raise WindowTooShort(f"{seconds:.3g} s; CPU counters need at least {SHORTEST_S:g} s")
        with CpuSpan(self) as span:
            num_passes = 0
            while num_passes == 0 or self.now_s() - span.begun_s < seconds:
                step()
                num_passes += 1
        return CpuReading(span.gross_j, span.window_s, num_passes, span.idle_w)


class CpuSpan:
    """Joules between entry and exit, however long; a thread reads in between because of wraps.

    The exit raises CounterStuck where a package's counter gained nothing, and what a read raised;
    neither where the work itself failed.
    """

    def __init__(self, counter: CpuEnergy, poll_s: float = POLL_S) -> None:
        self._counter, self._poll_s = counter, poll_s
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._poll, name="rapl", daemon=True)
        self._refused: EnergyRefused | None = None
        self.gross_j = self.window_s = self.begun_s = self.idle_w = 0.0

    def __enter__(self) -> CpuSpan:
        self.idle_w = self._counter.measure_idle_w()  # before the window: it takes a second
        self._counter.watch()
        self._begin, self.begun_s = self._counter.joules_by_zone(), self._counter.now_s()
        # It computes nothing: FLOP counts inside the span must not flag it.
        METER_THREADS.add(self._thread)
        self._thread.start()
        return self

    def __exit__(self, kind: object, *error: object) -> None:
        self._ended.set()
        self._thread.join()
        if kind is not None:  # the work's own error is the one to see
            return
        if self._refused is not None:
            raise self._refused
        gained = {
            name: joules - self._begin[name]
            for name, joules in self._counter.joules_by_zone().items()
        }
        self._counter.refuse_stuck()
        self.window_s = self._counter.now_s() - self.begun_s
        for name, joules in gained.items():
            # One of several that stands still would make the sum too small, and plausible.
            if joules <= 0:
                raise CounterStuck(f"{name}: {joules:g} J in {self.window_s:.3g} s")
        self.gross_j = sum(gained.values())

    @property
    def reason(self) -> str | None:
        """The reason why the joules are invalid; None if they are valid."""
        return below_idle(self.gross_j, self.window_s, self.idle_w)

    def _poll(self) -> None:
        while not self._ended.wait(self._poll_s):
            try:
                self._counter.joules()
                self._counter.refuse_stuck()
            except EnergyRefused as refusal:
                self._refused = refusal  # raised on exit, in the measuring thread
                return


def below_idle(joules: float, seconds: float, idle_w: float) -> str | None:
    """Why `joules` in `seconds` cannot be all that packages drew which draw `idle_w` idle."""
    if joules >= BELOW_IDLE * idle_w * seconds:
        return None
    return (
        f"{IMPLAUSIBLE}: a mean power of {joules / seconds:.4g} W, "
        f"the idle packages draw {idle_w:.4g} W"
    )
