"""Which processor this is: two machines of one name are told apart, and nothing is guessed."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import pytest

from bench.records.layout import part
from bench.records.processor import Processor, parse_cpuinfo, read_caches, read_processor

EPYC = """\
processor\t: 0
vendor_id\t: AuthenticAMD
cpu family\t: {family}
model\t\t: {model}
model name\t: AMD EPYC
stepping\t: 1
cache size\t: 1024 KB
flags\t\t: fpu vme de pse tsc hypervisor lahf_lm
power management:

processor\t: 1
cpu family\t: {family}
model\t\t: {model}
model name\t: AMD EPYC
stepping\t: 1
flags\t\t: fpu vme de pse tsc hypervisor lahf_lm
"""
XEON = """\
processor\t: 0
vendor_id\t: GenuineIntel
cpu family\t: 6
model\t\t: 143
model name\t: Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz
stepping\t: 8
flags\t\t: fpu vme de
"""
# Neoverse N1 (0xd0c) of Arm Ltd (0x41): no name, no flags, numbers in hexadecimal.
NEOVERSE = """\
processor\t: 0
BogoMIPS\t: 243.75
Features\t: fp asimd evtstrm aes
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x3
CPU part\t: 0xd0c
CPU revision\t: 1

"""
# A hypervisor that hides the chip.
HIDDEN = """\
processor\t: 0
model name\t: unknown
stepping\t: unknown
cpu family\t: 15
flags\t\t: fpu hypervisor
"""
POWER = "processor\t: 0\ncpu\t\t: POWER9, altivec supported\nrevision\t: 2.2 (pvr 004e 1202)\n"
CACHES = {
    0: ("1", "Data", "48K"),
    1: ("1", "Instruction", "32K"),
    2: ("2", "Unified", "2048K"),
    3: ("3", "Unified", "107520K"),  # 105 MiB
}
CLOCKS = "sys/devices/system/clocksource/clocksource0/available_clocksource"


def machine(
    root: Path,
    cpuinfo: str | None = None,
    caches: dict[int, tuple[str, str, str]] | None = None,
    files: dict[str, str] | None = None,
) -> Processor:
    """The processor of a machine with these files below `root`."""
    written = dict(files or {})
    if cpuinfo is not None:
        written["proc/cpuinfo"] = cpuinfo
    for index, values in (caches or {}).items():
        # The first processor of the affinity mask is read, whichever it is here.
        cpu = f"sys/devices/system/cpu/cpu{min(os.sched_getaffinity(0))}"
        for name, value in zip(("level", "type", "size"), values, strict=True):
            written[f"{cpu}/cache/index{index}/{name}"] = f"{value}\n"
    for place, text in written.items():
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        (root / place).write_text(text)
    return read_processor(root)


def test_a_cloud_host_is_named_by_chip_caches_and_hypervisor(tmp_path: Path) -> None:
    """The folder's name has every part, is legal as it is, and begins with the known name."""
    found = machine(
        tmp_path, EPYC.format(family=26, model=2), CACHES, {CLOCKS: "tsc kvm-clock acpi_pm\n"}
    )
    assert found.folder_name == "epyc-f26m2s1-48k-2m-105m-kvm"
    assert part(found.folder_name) == found.folder_name
    assert found.as_json() == {
        "family": "26",
        "model": "2",
        "stepping": "1",
        "caches_bytes": {"L1d": 49152, "L1i": 32768, "L2": 2097152, "L3": 110100480},
        "hypervisor": "kvm",
    }


@pytest.mark.parametrize(
    ("family", "model", "third_level", "clock"),
    [
        (25, 1, "107520K", "kvm-clock"),
        (26, 17, "107520K", "kvm-clock"),
        (26, 2, "32768K", "kvm-clock"),
        (26, 2, "107520K", "hyperv_clocksource_tsc_page"),
    ],
)
def test_two_hosts_called_epyc_are_two_machines(
    tmp_path: Path, family: int, model: int, third_level: str, clock: str
) -> None:
    """Another family, model, cache or hypervisor alone is another name."""
    one = machine(
        tmp_path / "a", EPYC.format(family=26, model=2), CACHES, {CLOCKS: "tsc kvm-clock"}
    )
    other = machine(
        tmp_path / "b",
        EPYC.format(family=family, model=model),
        CACHES | {3: ("3", "Unified", third_level)},
        {CLOCKS: f"tsc {clock}"},
    )
    assert one.name == other.name == "AMD EPYC"
    assert one.folder_name != other.folder_name


def test_marks_and_clock_rates_are_no_part_of_the_name(tmp_path: Path) -> None:
    """Bare metal in a cloud has the cloud's firmware and no flag, and so no hypervisor."""
    firmware = {"sys/class/dmi/id/sys_vendor": "Google", CLOCKS: "tsc hpet"}
    found = machine(tmp_path, XEON, {2: CACHES[2]}, firmware)
    assert found.folder_name == "xeon-platinum-8481c-f6m143s8-2m"
    assert found.hypervisor is None


def test_arm_has_implementer_part_and_revision(tmp_path: Path) -> None:
    """Variant 0x3, revision 1 is r3p1; the device tree names the hypervisor."""
    tree = {"proc/device-tree/hypervisor/compatible": "linux,kvm\0"}
    found = machine(tmp_path, NEOVERSE, {0: ("1", "Data", "64K")}, tree)
    assert (found.family, found.model, found.stepping) == ("0x41", "0xd0c", "r3p1")
    assert found.name == platform.machine()
    assert found.folder_name.endswith("-41-d0c-r3p1-64k-kvm")


def test_what_is_not_shown_is_missing(tmp_path: Path) -> None:
    """The text "unknown" is no value, an unnamed hypervisor is "vm", and no file is no error."""
    hidden = machine(tmp_path / "hidden", HIDDEN)
    assert (hidden.family, hidden.model, hidden.stepping) == ("15", None, None)
    assert hidden.folder_name == f"{platform.machine().replace('_', '-')}-f15-vm"
    for name, text in (("power", POWER), ("empty", ""), ("none", None)):
        bare = machine(tmp_path / name, text)
        assert bare == Processor(platform.machine())
        assert bare.folder_name == platform.machine().replace("_", "-")


def test_caches_without_a_size_are_left_out(tmp_path: Path) -> None:
    """Hypervisors show an index of 0K or without a size; 1280K is no whole MiB."""
    broken = {
        0: ("1", "Data", "0K"),
        1: ("1", "Instruction", ""),
        2: ("2", "Unified", "1280K"),
        3: ("3", "Unified", "36M"),
    }
    found = machine(tmp_path, XEON, broken)
    assert found.caches == {"L2": 1310720, "L3": 37748736}
    assert found.folder_name.endswith("-1280k-36m")
    assert read_caches(tmp_path / "nowhere") == {}


def test_the_block_of_the_processor_in_use_is_read() -> None:
    """Cores differ on some chips: the block of processor 4, else the first."""
    little, big = "processor: 0\nCPU part: 0xd05\n", "processor: 4\nCPU part: 0xd0a\n"
    text = f"{little}\n{big}\n\nHardware: board\n"
    assert parse_cpuinfo(text, 4)["CPU part"] == "0xd0a"
    assert parse_cpuinfo(text, 9)["CPU part"] == "0xd05"
    assert parse_cpuinfo("no colon\n") == {}
