"""The devices of this machine, and the locks that reserve a device for one trial.

A lock is `flock` on one file per device, in one folder per user. The kernel releases it when the
last process that holds the open file is gone, so that a crash leaves no stale lock. The launcher
takes the lock; the trial's process inherits it and keeps it, also when the launcher is killed.

A CPU trial has the whole host; GPU trials share the host and have their GPUs exclusively.
"""

from __future__ import annotations

import fcntl
import os
import stat
import time
from dataclasses import dataclass, field
from pathlib import Path

from bench.launch.forecast import format_duration
from bench.launch.turns import HOST, Choices, Turn
from bench.records import environment

LOCKS = Path("/proc/locks")  # Linux: every lock in force, with the inode of its file


class NoSuchDevice(Exception):
    """A trial requires a device that this machine does not have; the message names both."""


def lock_folder() -> Path:
    """This user's folder of device locks, created on first use with mode 0700.

    The path is fixed: TMPDIR and XDG_RUNTIME_DIR differ between a login, cron and a batch job, and
    all launchers of a user must find the same locks. Raises PermissionError where another user
    owns the path.
    """
    folder = Path(f"/tmp/condbench-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    # lstat: a symbolic link that another user put there in advance must not be followed.
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise PermissionError(f"{folder} is owned by another user; it holds the device locks")
    return folder


def visible_gpus() -> tuple[str, ...]:
    """UUIDs of the GPUs that the driver lists and CUDA_VISIBLE_DEVICES selects, in that order.

    Numbers in CUDA_VISIBLE_DEVICES count in the driver's order; the first unknown name ends the
    list, as in CUDA. A MIG slice is accepted by its name.
    """
    present = [str(gpu["uuid"]) for gpu in environment.gpus() if gpu["uuid"]]
    names = os.environ.get("CUDA_VISIBLE_DEVICES")
    if names is None:
        return tuple(present)
    chosen: list[str] = []
    for name in (part.strip() for part in names.split(",")):
        if name.isdigit():
            found = present[int(name) : int(name) + 1]
        elif name.startswith("MIG-"):  # the driver lists boards, not slices: unverified
            found = [name]
        else:
            found = [uuid for uuid in present if name and uuid.startswith(name)]
        if not found:
            break
        chosen += found
    return tuple(chosen)


@dataclass
class Claim:
    """Devices reserved for one trial: their names (none: the CPU) and the open, locked files."""

    gpus: tuple[str, ...]
    files: list[int] = field(default_factory=list)

    @property
    def variables(self) -> dict[str, str]:
        """Environment that the trial's process sets before it uses CUDA. Empty hides all GPUs."""
        return {"CUDA_VISIBLE_DEVICES": ",".join(self.gpus)}

    @property
    def name(self) -> str:
        """The devices as one word, for display."""
        return "+".join(self.gpus) or HOST

    def sign(self, holder: str) -> None:
        """Write `holder` into the lock files, for the message of a launcher that has to wait."""
        # For display only: the content may be out of date, the lock never is.
        for file in self.files:
            os.ftruncate(file, 0)
            os.pwrite(file, holder.encode(), 0)

    def release(self) -> None:
        """Close this process's copies. A trial that inherited them keeps the devices."""
        for file in self.files:
            os.close(file)
        self.files.clear()


@dataclass(frozen=True)
class Wait:
    """What a run waits for. Equal while holders and place are: the age alone is no news."""

    cause: str
    place: int = 1  # in the queue of runs
    age_s: float | None = field(default=None, compare=False)  # for how long the device is held

    def __str__(self) -> str:
        age = "" if self.age_s is None else f" for {format_duration(self.age_s)}"
        place = f"; place {self.place} in the queue" if self.place > 1 else ""
        return f"{self.cause}{age}{place}"


@dataclass(frozen=True)
class Machine:
    """The devices that trials may use here."""

    gpus: tuple[str, ...]
    locks: Path

    @classmethod
    def detect(cls) -> Machine:
        """This machine, as its driver and CUDA_VISIBLE_DEVICES describe it."""
        return cls(visible_gpus(), lock_folder())

    @property
    def num_slots(self) -> int:
        """How many trials can run here at once."""
        return max(1, len(self.gpus))

    def choices(self, kind: str, device: str | None) -> tuple[tuple[str, ...], ...]:
        """Sets of GPUs, any of which serves a trial with `gpu.kind` and `gpu.device`.

        `cpu`: the host alone. `one`: one GPU, of `device` (comma separated UUIDs) or of all.
        `ddp`: those GPUs together. Raises NoSuchDevice for a GPU that is not visible here.
        """
        if kind == "cpu":
            return ((),)
        named = tuple(part.strip() for part in device.split(",")) if device else self.gpus
        absent = [uuid for uuid in named if uuid not in self.gpus]
        if absent or not named:
            have = ", ".join(self.gpus) or "no GPU"
            needed = ", ".join(absent) or "a GPU"
            raise NoSuchDevice(f"gpu={kind} needs {needed}, but this machine has {have}")
        return (named,) if kind == "ddp" else tuple((uuid,) for uuid in named)

    def claim(self, choices: Choices, turn: Turn | None = None) -> Claim | None:
        """Reserve the first set of GPUs that is free, without waiting; None while none is.

        With a `turn`, devices that an earlier run waits for are left to it.
        """
        for gpus in choices:
            if turn is not None and turn.ahead(gpus):
                continue
            claim = Claim(gpus)
            try:
                # The host is shared by GPU trials and exclusive to a CPU trial, whose timings
                # the data loading of the others would disturb.
                self._lock(HOST, claim, fcntl.LOCK_SH if gpus else fcntl.LOCK_EX)
                for uuid in sorted(gpus):
                    self._lock(uuid, claim, fcntl.LOCK_EX)
            except BlockingIOError:
                claim.release()  # all or nothing: a part that is held would block other trials
            else:
                return claim
        return None

    def _lock(self, device: str, claim: Claim, how: int) -> None:
        file = os.open(self._path(device), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        claim.files.append(file)  # before the lock, so that a failed claim closes it too
        fcntl.flock(file, how | fcntl.LOCK_NB)

    def wait(self, choices: Choices, turn: Turn) -> Wait:
        """Why none of these devices can be claimed; for display."""
        sets = list(choices)
        ahead = {pid for gpus in sets for pid in turn.ahead(gpus)}
        place = len(ahead) + 1
        held = self._held(sets)
        if not held:
            runs = ", ".join(str(pid) for pid in sorted(ahead)) or "another process"
            return Wait(f"a device that is left to an earlier run (process {runs})", place)
        ages = [time.time() - path.stat().st_mtime for path in held]  # signed when it was claimed
        return Wait(f"a device held by {self.holders(sets)}", place, max(0.0, *ages))

    def holders(self, choices: Choices) -> str:
        """The current holders of these devices, as they signed; for display."""
        paths = [path for path in self._held(choices) if path.is_file()]
        signs = {path.read_text("utf-8", "replace").strip() for path in paths}
        return ", ".join(sorted(signs - {""})) or "another process"

    def _held(self, choices: Choices) -> list[Path]:
        """Lock files of those devices that are held; the host's where it is in the way alone."""
        devices = {device for gpus in choices for device in (gpus or (HOST,))}
        held = [path for path in map(self._path, sorted(devices)) if _is_held(path)]
        return held or [path for path in [self._path(HOST)] if _is_held(path)]

    def _path(self, device: str) -> Path:
        # A MIG name may hold slashes.
        return self.locks / f"{device.replace('/', '_')}.lock"


def _is_held(path: Path) -> bool:
    """Whether some process holds the lock on this file; true where that cannot be found out.

    A sign outlives its writer, the lock does not.
    """
    if not path.exists():
        return False
    try:
        found = path.stat()
        return f":{found.st_ino} " in LOCKS.read_text(encoding="ascii")
    except OSError:
        return True
