"""Which devices this machine lends to trials, and the locks that keep a device to one trial.

A lock is `flock` on a file per device in a folder per user. The kernel drops it when the last
process that holds the open file is gone, so no crash leaves a stale one. The launcher takes the
lock, the trial's process inherits it and keeps it, also when the launcher is killed.

A CPU trial has the whole host; GPU trials share the host and have their GPUs alone.
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from bench.records import environment

HOST = "cpu"


class NoSuchDevice(Exception):
    """A trial asks for a device that this machine does not lend; the message names both."""


def lock_folder() -> Path:
    """This user's folder of device locks, made on first use with mode 0700.

    The path is fixed: TMPDIR and XDG_RUNTIME_DIR differ between a login, cron and a batch job, and
    two launchers must meet. Raises PermissionError where someone else owns the path.
    """
    folder = Path(f"/tmp/condbench-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise PermissionError(f"{folder} belongs to someone else; it holds the device locks")
    return folder


def visible_gpus() -> tuple[str, ...]:
    """UUIDs of the GPUs that the driver shows and CUDA_VISIBLE_DEVICES leaves, in that order.

    Numbers in CUDA_VISIBLE_DEVICES count in the driver's order; the first unknown name ends the
    list, as in CUDA. A MIG slice is taken by its name.
    """
    present = [str(gpu["uuid"]) for gpu in environment.gpus() if gpu["uuid"]]
    names = os.environ.get("CUDA_VISIBLE_DEVICES")
    if names is None:
        return tuple(present)
    chosen: list[str] = []
    for name in (part.strip() for part in names.split(",")):
        if name.isdigit():
            found = present[int(name) : int(name) + 1]
        elif name.startswith("MIG-"):
            found = [name]
        else:
            found = [uuid for uuid in present if name and uuid.startswith(name)]
        if not found:
            break
        chosen += found
    return tuple(chosen)


@dataclass
class Claim:
    """Devices taken for one trial: their names (no name: the CPU) and the open, locked files."""

    gpus: tuple[str, ...]
    files: list[int] = field(default_factory=list)

    @property
    def variables(self) -> dict[str, str]:
        """What the trial's process must set before it touches CUDA. Empty hides every GPU."""
        return {"CUDA_VISIBLE_DEVICES": ",".join(self.gpus)}

    @property
    def name(self) -> str:
        return "+".join(self.gpus) or HOST

    def sign(self, holder: str) -> None:
        """Leave a word in the lock files, for the message of a launcher that has to wait."""
        for file in self.files:
            os.ftruncate(file, 0)
            os.pwrite(file, holder.encode(), 0)

    def release(self) -> None:
        """Close this process's copies. A trial that inherited them keeps the devices."""
        for file in self.files:
            os.close(file)
        self.files.clear()


@dataclass(frozen=True)
class Machine:
    """The devices that trials may have here."""

    gpus: tuple[str, ...]
    locks: Path

    @classmethod
    def observed(cls) -> Machine:
        """This machine, as its driver and CUDA_VISIBLE_DEVICES show it."""
        return cls(visible_gpus(), lock_folder())

    @property
    def num_slots(self) -> int:
        """How many trials can run here at once."""
        return max(1, len(self.gpus))

    def choices(self, kind: str, device: str | None) -> tuple[tuple[str, ...], ...]:
        """Sets of GPUs, any of which serves a trial with `gpu.kind` and `gpu.device`.

        `cpu`: the host alone. `one`: one GPU, of `device` (comma separated UUIDs) or of all.
        `ddp`: those GPUs together. Raises NoSuchDevice for what is not here.
        """
        if kind == "cpu":
            return ((),)
        named = tuple(part.strip() for part in device.split(",")) if device else self.gpus
        absent = [uuid for uuid in named if uuid not in self.gpus]
        if absent or not named:
            have = ", ".join(self.gpus) or "no GPU"
            raise NoSuchDevice(
                f"gpu={kind} asks for {', '.join(absent) or 'a GPU'}, but this machine lends {have}"
            )
        return (named,) if kind == "ddp" else tuple((uuid,) for uuid in named)

    def claim(self, choices: Iterable[tuple[str, ...]]) -> Claim | None:
        """Take the first set of GPUs that is free, without waiting; None while all are taken."""
        for gpus in choices:
            claim = Claim(gpus)
            try:
                self._take(HOST, claim, fcntl.LOCK_SH if gpus else fcntl.LOCK_EX)
                for uuid in sorted(gpus):
                    self._take(uuid, claim, fcntl.LOCK_EX)
            except BlockingIOError:
                claim.release()
            else:
                return claim
        return None

    def _take(self, device: str, claim: Claim, how: int) -> None:
        file = os.open(self._lock(device), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        claim.files.append(file)
        fcntl.flock(file, how | fcntl.LOCK_NB)

    def holders(self, choices: Iterable[tuple[str, ...]]) -> str:
        """Who signed for these devices last: the words for a launcher that has to wait."""
        paths = {self._lock(device) for gpus in choices for device in (gpus or (HOST,))}
        signs = {path.read_text().strip() for path in paths if path.exists()}
        return ", ".join(sorted(signs - {""})) or "another process"

    def _lock(self, device: str) -> Path:
        return self.locks / f"{device.replace('/', '_')}.lock"
