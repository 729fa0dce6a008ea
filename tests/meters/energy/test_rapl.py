"""CPU package energy from powercap files: sums, wraps, and reasons for its absence."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from bench.meters.energy import EnergyUnsupported, WindowTooShort
from bench.meters.energy.rapl import CpuEnergy, CpuSpan

RANGE_UJ = 262_143_328_850


def zone(root: Path, folder: str, name: str, energy_uj: int) -> Path:
    path = root / folder
    path.mkdir(parents=True)
    (path / "name").write_text(f"{name}\n")
    (path / "max_energy_range_uj").write_text(f"{RANGE_UJ}\n")
    (path / "energy_uj").write_text(f"{energy_uj}\n")
    return path / "energy_uj"


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


def test_a_counter_that_wraps_continues(tmp_path):
    """From 1 J below its range to 2 J above zero are 3 J, twice over."""
    file = zone(tmp_path, "intel-rapl:0", "package-0", RANGE_UJ - 1_000_000)
    counter = CpuEnergy(tmp_path)
    file.write_text("2000000\n")
    assert counter.joules() == pytest.approx(3.0)
    file.write_text(f"{RANGE_UJ - 1_000_000}\n")
    counter.joules()
    file.write_text("2000000\n")
    assert counter.joules() == pytest.approx(RANGE_UJ / 1e6 + 3.0)


def test_a_long_span_is_read_in_between(tmp_path):
    """Two wraps inside a span both count, because a thread reads the counter meanwhile."""
    file = zone(tmp_path, "intel-rapl:0", "package-0", RANGE_UJ - 1)
    counter = CpuEnergy(tmp_path)
    with CpuSpan(counter, poll_s=0.001) as span:
        for value in (5, RANGE_UJ - 5, 10):
            before = counter._last
            replace(file, value)
            while counter._last == before:
                time.sleep(0.001)
    assert span.gross_j == pytest.approx((1 + 5 + (RANGE_UJ - 10) + 15) / 1e6)


def replace(file: Path, value: int) -> None:
    """Replace the content atomically: a reader sees the old number or the new one."""
    temporary = file.with_suffix(".new")
    temporary.write_text(f"{value}\n")
    temporary.rename(file)


def test_whole_passes_in_a_window(tmp_path):
    """Each pass of 50 ms costs 2 J: the reading is 2 J per pass."""
    file = zone(tmp_path, "intel-rapl:0", "package-0", 0)

    def step() -> None:
        time.sleep(0.05)
        replace(file, int(file.read_text()) + 2_000_000)

    reading = CpuEnergy(tmp_path).measure(step, 1.0)
    assert reading.j_per_pass == pytest.approx(2.0)
    assert reading.window_s >= 1.0
    with pytest.raises(WindowTooShort):
        CpuEnergy(tmp_path).measure(step, 0.5)


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
