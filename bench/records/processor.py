"""The processor, closely enough to separate two machines of one name.

Cloud hosts show a bare "AMD EPYC" for several generations. Family, model and stepping name the
chip, cache sizes its variant and what a hypervisor passes on of it.
Read from /proc/cpuinfo and /sys; whatever they do not show is missing, never guessed.
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CACHE_TYPES = {"Data": "d", "Instruction": "i", "Unified": ""}  # as in L1d, L1i, L2
UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "": 1}
# What the kernel's clock sources and the firmware's names show about what runs below.
HYPERVISORS = {
    "kvm": "kvm",
    "qemu": "kvm",
    "google compute": "kvm",
    "hyperv": "hyperv",
    "virtual machine": "hyperv",
    "xen": "xen",
    "vmware": "vmware",
    "virtualbox": "virtualbox",
}


@dataclass(frozen=True)
class Processor:
    """What identifies a processor; None and absent caches: not shown by this kernel."""

    name: str  # as the kernel has it, or the architecture
    family: str | None = None  # on ARM the implementer
    model: str | None = None  # on ARM the part
    stepping: str | None = None  # on ARM variant and revision: r3p1
    caches: Mapping[str, int] = field(default_factory=dict)  # bytes of one instance: L1d, L2, ...
    hypervisor: str | None = None  # "vm" where only its presence is visible

    @property
    def folder_name(self) -> str:
        """The processor in a folder's name: `epyc-f26m2s1-48k-1m-32m-kvm`.

        Caches in the order L1d, L2, L3. Missing parts are left out.
        """
        data = [_size(self.caches[level]) for level in sorted(self.caches) if level != "L1i"]
        parts = [slug(self.name), self._version(), *data, self.hypervisor or ""]
        return "-".join(part for part in parts if part)

    def _version(self) -> str:
        known = {"f": self.family, "m": self.model, "s": self.stepping}
        if all(value is None or value.isdecimal() for value in known.values()):
            return "".join(key + value for key, value in known.items() if value is not None)
        # ARM's numbers are hexadecimal and need no letters: 41-d0c-r3p1.
        return "-".join(slug(value).removeprefix("0x") for value in known.values() if value)

    def as_json(self) -> dict[str, Any]:
        """The record's `environment.cpu`."""
        return {
            "family": self.family,
            "model": self.model,
            "stepping": self.stepping,
            "caches_bytes": dict(self.caches),
            "hypervisor": self.hypervisor,
        }


def read_processor(root: Path = Path("/")) -> Processor:
    """The first processor that this process may run on, from `root`/proc and `root`/sys."""
    number = min(os.sched_getaffinity(0))
    shown = parse_cpuinfo(_read(root / "proc/cpuinfo"), number)
    folder = root / f"sys/devices/system/cpu/cpu{number}/cache"
    is_arm = "CPU part" in shown
    keys = ("CPU implementer", "CPU part") if is_arm else ("cpu family", "model")
    family, model = (shown.get(key) for key in keys)
    return Processor(
        name=shown.get("model name") or platform.machine(),
        family=family,
        model=model,
        stepping=_arm_revision(shown) if is_arm else shown.get("stepping"),
        caches=read_caches(folder),
        hypervisor=find_hypervisor(shown, root),
    )


def parse_cpuinfo(text: str, number: int = 0) -> dict[str, str]:
    """The block of processor `number` in /proc/cpuinfo, or the first one; {} where it is empty."""
    blocks = []
    for block in re.split(r"\n\s*\n", text):
        pairs = (line.partition(":") for line in block.splitlines())
        found = {key.strip(): value.strip() for key, colon, value in pairs if colon}
        # Values that are no values: "unknown" of hypervisors that hide the chip, and empty lines.
        blocks.append({k: v for k, v in found.items() if v and v.lower() != "unknown"})
    blocks = [block for block in blocks if block]
    same = [block for block in blocks if block.get("processor") == str(number)]
    return (same or blocks or [{}])[0]


def read_caches(folder: Path) -> dict[str, int]:
    """Bytes by level from a folder of sysfs with index0, index1, ...; {} where there is none."""
    found = {}
    for index in sorted(folder.glob("index*")):
        level, kind, size = (_read(index / name).strip() for name in ("level", "type", "size"))
        parsed = re.fullmatch(r"(\d+)([KMG]?)", size)
        # Some hypervisors show an index with 0K, or one without a size.
        if level and kind in CACHE_TYPES and parsed and int(parsed[1]):
            found[f"L{level}{CACHE_TYPES[kind]}"] = int(parsed[1]) * UNITS[parsed[2]]
    return found


def find_hypervisor(shown: Mapping[str, str], root: Path = Path("/")) -> str | None:
    """The hypervisor's name, "vm" for an unknown one, None on bare metal or where none is seen.

    `shown`: a block of /proc/cpuinfo.
    """
    is_flagged = "hypervisor" in shown.get("flags", "").split()
    # Processors with flags have that one under every hypervisor; clouds' bare metal does not, and
    # still has the cloud's name in its firmware.
    if "flags" in shown and not is_flagged:
        return None
    places = (
        "sys/hypervisor/type",
        "sys/devices/system/clocksource/clocksource0/available_clocksource",
        "proc/device-tree/hypervisor/compatible",
        "sys/class/dmi/id/product_name",
        "sys/class/dmi/id/sys_vendor",
    )
    for place in places:
        text = _read(root / place).lower()
        for mark, name in HYPERVISORS.items():
            if mark in text:
                return name
    return "vm" if is_flagged else None


def slug(name: str) -> str:
    """`name` in lower-case letters, digits and hyphens, without what identifies no model."""
    # Marks, words and clock rates that do not identify a model and differ between kernels.
    drop = r"\(r\)|\(tm\)|\bcpu\b|\bintel\b|\bamd\b|\bprocessor\b|@.*$|\b\d+-core\b"
    words = re.sub(drop, " ", name.lower())
    return re.sub(r"[^a-z0-9]+", "-", words).strip("-") or "unknown"


def _arm_revision(shown: Mapping[str, str]) -> str | None:
    """ARM's rNpM: variant N, revision M."""
    variant, revision = shown.get("CPU variant"), shown.get("CPU revision")
    if variant is None or revision is None:
        return None
    return f"r{int(variant, 0)}p{int(revision, 0)}"


def _size(num_bytes: int) -> str:
    for unit in ("M", "K"):
        if num_bytes % UNITS[unit] == 0:
            return f"{num_bytes // UNITS[unit]}{unit.lower()}"
    return str(num_bytes)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
