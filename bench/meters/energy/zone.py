"""One CPU package's counter: a file that counts microjoules and wraps at the end of its range.

A smaller value than before is a wrap only where a package can draw the energy that a wrap implies.
Otherwise the counter was reset, and what it counted before is lost.
"""

from __future__ import annotations

from pathlib import Path

from bench.meters.energy.refusals import (
    CounterJumped,
    CounterReset,
    CounterStuck,
    EnergyUnsupported,
    WrapsMissed,
)

MAX_PACKAGE_W = 1000.0  # no package draws more: the largest of today are sold with 500 W
UPDATE_S = 0.05  # of energy may arrive at once: the files are updated every few milliseconds
STUCK_S = 1.0  # without an update: a thousand of them are missing
UJ = 1e6  # microjoules in a joule


class Zone:
    """A package's joules since construction. Its reads raise the subclasses of `EnergyRefused`."""

    def __init__(self, folder: Path, now_s: float) -> None:
        self._file = folder / "energy_uj"
        self.name = read_text(folder / "name") or folder.name
        self._range_uj = read_number(folder / "max_energy_range_uj")
        self._last_uj = read_number(self._file)
        self._read_s = self._moved_s = now_s
        self.total_j = 0.0

    def watch(self, now_s: float) -> None:
        """From now on the counter must move: the time without an update counts from here."""
        self._moved_s = now_s

    def advance(self, now_s: float) -> None:
        """Read the file and add what it gained since the last read.

        Raises CounterReset, CounterJumped and WrapsMissed for a step that no package can draw.
        """
        new_uj = read_number(self._file)
        step_uj = self._step_uj(new_uj, now_s - self._read_s)
        if step_uj:
            self._moved_s = now_s
        self._last_uj, self._read_s = new_uj, now_s
        self.total_j += step_uj / UJ

    def refuse_stuck(self) -> None:
        """Raise CounterStuck where reads of more than a second saw no update."""
        # Between reads, not until now: a thread that was descheduled after its read saw nothing.
        unchanged_s = self._read_s - self._moved_s
        if unchanged_s > STUCK_S:
            raise CounterStuck(f"{self.name}: at {self._last_uj} uJ for {unchanged_s:.2g} s")

    def _step_uj(self, new_uj: int, seconds: float) -> int:
        most_uj = MAX_PACKAGE_W * (seconds + UPDATE_S) * UJ
        # A whole range may have passed unseen, so that neither direction has one meaning.
        if 0 < self._range_uj <= most_uj:
            raise WrapsMissed(
                f"{self.name}: {seconds:.3g} s between two reads, and {MAX_PACKAGE_W:g} W wrap "
                f"its range of {self._range_uj / UJ:.4g} J in less"
            )
        step_uj = new_uj - self._last_uj
        if step_uj < 0:
            return self._wrapped_uj(step_uj, most_uj, seconds)
        if step_uj > most_uj:
            raise CounterJumped(
                f"{self.name}: {step_uj / UJ:.4g} J in {seconds:.3g} s, "
                f"more than {MAX_PACKAGE_W:g} W"
            )
        return step_uj

    def _wrapped_uj(self, step_uj: int, most_uj: float, seconds: float) -> int:
        """The gain of a backwards step as a wrap. Raises CounterReset where it cannot be one."""
        back = f"{self.name}: {-step_uj / UJ:.4g} J backwards"
        # Some virtual machines and drivers report a range of 0.
        if self._range_uj <= 0:
            raise CounterReset(f"{back}, and a range of {self._range_uj} uJ does not wrap")
        wrapped_uj = step_uj + self._range_uj
        if not 0 <= wrapped_uj <= most_uj:
            raise CounterReset(
                f"{back}; a wrap would be {wrapped_uj / UJ:.4g} J in {seconds:.3g} s, "
                f"which {MAX_PACKAGE_W:g} W cannot be"
            )
        return wrapped_uj


def packages(root: Path) -> list[Path]:
    """Folders of whole packages, without the cores and memory inside them.

    Raises EnergyUnsupported where there are none.
    """
    # Names like intel-rapl:0:1 are parts; intel-rapl-mmio:0 is another interface to a package.
    zones = sorted(zone for zone in root.glob("intel-rapl:*") if zone.name.count(":") == 1)
    found = [zone for zone in zones if read_text(zone / "name").startswith("package")]
    if not found:
        raise EnergyUnsupported(
            f"no RAPL: {root} shows no CPU package (virtual machines have none)"
        )
    return found


def read_number(path: Path) -> int:
    """The integer in a file. Raises EnergyUnsupported where there is none to read."""
    try:
        return int(path.read_text(encoding="ascii"))
    except PermissionError as error:
        raise EnergyUnsupported(f"RAPL: {path} needs root since Linux 5.10") from error
    except (OSError, ValueError) as error:
        raise EnergyUnsupported(f"RAPL: {path} cannot be read ({error})") from error


def read_text(path: Path) -> str:
    """The text in a file; empty where it cannot be read."""
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        return ""
