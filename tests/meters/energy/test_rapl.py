"""CPU package energy from powercap files: sums, wraps, steps that are none, reasons for absence."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

import pytest

from bench.meters.energy import (
    CounterReset,
    CounterStuck,
    EnergyRefused,
    EnergyUnsupported,
    WindowTooShort,
)
from bench.meters.energy.rapl import CpuEnergy, CpuReading, CpuSpan
from bench.meters.energy.refusals import CounterJumped, WrapsMissed
from tests.fakes.nvml import FakeClock

RANGE_UJ = 262_143_328_850


def zone(root: Path, folder: str, name: str, energy_uj: int, range_uj: int = RANGE_UJ) -> Path:
    path = root / folder
    path.mkdir(parents=True)
    (path / "name").write_text(f"{name}\n")
    (path / "max_energy_range_uj").write_text(f"{range_uj}\n")
    (path / "energy_uj").write_text(f"{energy_uj}\n")
    return path / "energy_uj"


class Package:
    """A package of constant power whose counter a test can stop or set; the clock is simulated."""

    def __init__(
        self, root: Path, clock: FakeClock, start_j: float = 100.0, range_j: float = 262_143.0
    ) -> None:
        self.clock, self.range_j, self.watts, self.total_j = clock, range_j, 50.0, start_j
        number = len(list(root.glob("intel-rapl:*")))
        self.file = zone(
            root,
            f"intel-rapl:{number}",
            f"package-{number}",
            round(1e6 * start_j),
            round(1e6 * range_j),
        )
        self.tick()

    def tick(self) -> None:
        """Update the file now and every 20 ms."""
        self.total_j += 0.02 * self.watts
        shown_j = self.total_j % self.range_j if self.range_j else self.total_j
        replace(self.file, round(1e6 * shown_j))  # a thread may be reading
        self.clock.call_at(self.clock.now + 0.02, self.tick)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def test_packages_are_summed_without_their_parts_and_duplicates(tmp_path):
    """Two packages gain 3 and 4 J; cores, memory, psys and the memory-mapped twin do not count."""
    first = zone(tmp_path, "intel-rapl:0", "package-0", 1_000_000)
    second = zone(tmp_path, "intel-rapl:1", "package-1", 1_000_000)
    others = [
        zone(tmp_path, "intel-rapl:0:0", "core", 0),
        zone(tmp_path, "intel-rapl:0:1", "dram", 0),
        zone(tmp_path, "intel-rapl:2", "psys", 0),
        zone(tmp_path, "intel-rapl-mmio:0", "package-0", 0),
    ]
    counter = CpuEnergy(tmp_path)
    first.write_text("4000000\n")
    second.write_text("5000000\n")
    for other in others:
        other.write_text("99000000\n")
    assert counter.joules() == pytest.approx(7.0)


def test_a_counter_that_wraps_continues(tmp_path, clock):
    """A range of 200 J at 50 W wraps every 4 s: in 10 s twice, and 500 J are counted."""
    Package(tmp_path, clock, range_j=200.0)
    counter = CpuEnergy(tmp_path, clock)
    for _ in range(100):
        clock.sleep(0.1)  # reads a second apart could miss a wrap of 200 J
        joules = counter.joules()
    assert joules == pytest.approx(500.0, abs=1.0)


@pytest.mark.parametrize(
    ("before_j", "after_j", "range_j"),
    [
        (4_000.0, 0.0, 0.0),  # a range of 0 would have made -4000 J of it
        (4_000.0, 0.0, 262_143.0),  # as a wrap 258,143 J
        (200_000.0, 100.0, 262_143.0),
        (150.0, 149.0, 262_143.0),  # a single joule backwards
        (300.0, 0.0, 200.0),  # beyond its own range
        (4_000.0, 0.0, -1.0),
    ],
)
def test_a_step_backwards_that_no_package_draws_as_a_wrap_is_a_reset(
    tmp_path, clock, before_j, after_j, range_j
):
    """Refused by name, at once and for ever after: what was counted before is lost."""
    file = zone(tmp_path, "intel-rapl:0", "package-0", int(before_j * 1e6), int(range_j * 1e6))
    counter = CpuEnergy(tmp_path, clock)
    clock.sleep(0.1)
    file.write_text(f"{int(after_j * 1e6)}\n")
    for _ in range(2):
        with pytest.raises(CounterReset, match="package-0"):
            counter.joules()


def test_a_wrap_must_fit_into_the_time_between_two_reads(tmp_path, clock):
    """100 J as a wrap are 1000 W in 0.1 s, which a package may draw; in 0.01 s they are a reset."""
    for folder, seconds in (("long", 0.1), ("short", 0.01)):
        file = zone(tmp_path / folder, "intel-rapl:0", "package-0", RANGE_UJ - 60_000_000)
        counter = CpuEnergy(tmp_path / folder, clock)
        clock.sleep(seconds)
        file.write_text("40000000\n")
        if folder == "long":
            assert counter.joules() == pytest.approx(100.0)
        else:
            with pytest.raises(CounterReset):
                counter.joules()


def test_a_step_forwards_that_no_package_draws_is_refused(tmp_path, clock):
    """500 J in 0.1 s are 5000 W."""
    file = zone(tmp_path, "intel-rapl:0", "package-0", 0)
    counter = CpuEnergy(tmp_path, clock)
    clock.sleep(0.1)
    file.write_text("500000000\n")
    with pytest.raises(CounterJumped, match=r"500 J in 0\.1 s"):
        counter.joules()


@pytest.mark.parametrize("after_j", [100.0, 262_000.0])
def test_reads_so_far_apart_that_wraps_may_be_missed_are_refused(tmp_path, clock, after_j):
    """A range of 262 kJ can wrap in 263 s at 1000 W, whatever the counter shows then."""
    file = zone(tmp_path, "intel-rapl:0", "package-0", 1_000_000_000)
    counter = CpuEnergy(tmp_path, clock)
    clock.sleep(263.0)
    file.write_text(f"{int(after_j * 1e6)}\n")
    with pytest.raises(WrapsMissed):
        counter.joules()


@pytest.mark.parametrize("stopped", [(True,), (True, True), (False, True)])
def test_a_package_that_never_moves_is_refused_also_beside_one_that_does(tmp_path, clock, stopped):
    """The sum of the others would be too small and look plausible: CounterStuck names the one."""
    made = [Package(tmp_path, clock) for _ in stopped]
    for package, is_stopped in zip(made, stopped, strict=True):
        package.watts = 0.0 if is_stopped else 50.0
    with pytest.raises(CounterStuck, match=f"package-{stopped.index(True)}"):
        CpuEnergy(tmp_path, clock).measure(lambda: clock.sleep(0.1), 2.0)


def test_a_package_that_stops_in_the_middle_is_refused(tmp_path, clock):
    """It has gained something by then: the last second without an update shows it."""
    package = Package(tmp_path, clock)
    span = CpuSpan(CpuEnergy(tmp_path, clock))
    span.__enter__()
    clock.sleep(1.0)
    span._counter.joules()
    package.watts = 0.0
    clock.sleep(1.5)
    with pytest.raises(CounterStuck):
        span.__exit__(None)


def test_a_reading_below_the_idle_packages_is_invalid(tmp_path, clock):
    """50 W idle and 20 W while working cannot be: the number is kept with its reason."""
    package = Package(tmp_path, clock)

    def step() -> None:
        package.watts = 20.0
        clock.sleep(0.1)

    reading = CpuEnergy(tmp_path, clock).measure(step, 2.0)
    assert reading.gross_j == pytest.approx(40.0, rel=0.02)
    assert str(reading.reason).startswith("Implausible: a mean power of 20")
    assert CpuReading(gross_j=41.0, window_s=1.0, num_passes=1, idle_w=50.0).reason is None


def test_the_works_own_error_passes_through_a_counter_that_failed(tmp_path, clock):
    """Not a refusal, which would hide what happened."""
    package = Package(tmp_path, clock)
    counter = CpuEnergy(tmp_path, clock)

    def broken() -> None:
        package.total_j -= 50.0
        clock.sleep(0.1)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        counter.measure(broken, 2.0)
    with pytest.raises(CounterReset):
        counter.joules()


def test_no_sequence_of_values_gives_joules_that_packages_cannot_draw(tmp_path):
    """Arbitrary counters: 0 to 1050 J a second of reading, or a refusal; never less than nothing.

    1000 W for a second, and what a late update may bring.
    """
    values = (0, 1, 5_000_000, RANGE_UJ - 1, RANGE_UJ, 2 * RANGE_UJ, 4_000_000_000)
    ranges = (0, 1, 1_000_000, RANGE_UJ)
    for number, (first, second, whole) in enumerate(
        (a, b, c) for a in values for b in values for c in ranges
    ):
        clock = FakeClock()
        root = tmp_path / str(number)
        file = zone(root, "intel-rapl:0", "package-0", first, whole)
        counter = CpuEnergy(root, clock)
        clock.sleep(1.0)
        file.write_text(f"{second}\n")
        with suppress(EnergyRefused):
            assert 0 <= counter.joules() <= 1050


def test_a_long_span_is_read_in_between(tmp_path, clock):
    """Wraps inside a span count, because a thread reads the counter meanwhile: 3 of 2000 J."""
    package = Package(tmp_path, clock, range_j=2000.0)
    package.watts = 500.0
    counter = CpuEnergy(tmp_path, clock)
    with CpuSpan(counter, poll_s=0.001) as span:
        for _ in range(12):
            clock.sleep(1.0)
            while counter._zones[0]._read_s < clock.now:  # until the thread has read
                time.sleep(0.001)
    assert span.gross_j == pytest.approx(6000.0, abs=20.0)
    assert package.total_j > 3 * package.range_j


def replace(file: Path, value: int) -> None:
    """Replace the content atomically: a reader sees the old number or the new one."""
    temporary = file.with_suffix(".new")
    temporary.write_text(f"{value}\n")
    temporary.rename(file)


def test_whole_passes_in_a_window(tmp_path, clock):
    """Each pass of 50 ms costs 2 J: the reading is 2 J per pass."""
    file = zone(tmp_path, "intel-rapl:0", "package-0", 0)

    def step() -> None:
        clock.sleep(0.05)
        replace(file, int(file.read_text()) + 2_000_000)

    reading = CpuEnergy(tmp_path, clock).measure(step, 1.0)
    assert reading.j_per_pass == pytest.approx(2.0)
    assert reading.window_s >= 1.0
    with pytest.raises(WindowTooShort):
        CpuEnergy(tmp_path, clock).measure(step, 0.5)


def test_a_machine_without_packages_is_unsupported(tmp_path):
    """A virtual machine has no RAPL; some have psys alone."""
    with pytest.raises(EnergyUnsupported, match="no CPU package"):
        CpuEnergy(tmp_path / "absent")
    zone(tmp_path, "intel-rapl:0", "psys", 0)
    with pytest.raises(EnergyUnsupported, match="no CPU package"):
        CpuEnergy(tmp_path)


def test_a_counter_readable_by_root_only_is_unsupported(tmp_path, monkeypatch):
    """Since Linux 5.10 only root may read it."""
    zone(tmp_path, "intel-rapl:0", "package-0", 0)
    read = Path.read_text

    def refuse(path: Path, **options: str) -> str:
        if path.name == "energy_uj":
            raise PermissionError
        return read(path, **options)

    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(EnergyUnsupported, match="needs root"):
        CpuEnergy(tmp_path)


def test_a_damaged_counter_is_unsupported(tmp_path):
    """No number in the file is no energy, not zero."""
    zone(tmp_path, "intel-rapl:0", "package-0", 0).write_text("\n")
    with pytest.raises(EnergyUnsupported, match="cannot be read"):
        CpuEnergy(tmp_path)
