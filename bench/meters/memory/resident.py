"""Resident memory: what a process costs, measured in a fresh child interpreter of its own.

    reading = measure_peak_rss("bench.selftest.known_bytes:workload", ["64 MiB"])
    child = start_peak_rss(partial(model, batch)); ...; reading = child.reading()

A target, `module:function`, gets the arguments as strings and returns the workload as a function
without arguments; a workload that exists already is sent to the child through a pipe. The child
runs it once dry, clears the kernel's high-water mark, runs it again and reports. A process that ran
anything else before answers wrongly: freed memory stays with the C library, and the mark never
falls. No torch in the parent's half.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib
import io
import json
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

CHILD = "bench.meters.memory.resident"  # the module that a child interpreter runs
FROM_PIPE = "the workload of a pipe"
SILENT = "it said nothing"


class RssError(RuntimeError):
    """The child did not answer; the message holds its last words."""


@dataclass(frozen=True)
class RssReading:
    """Resident bytes of a child process, interpreter and libraries included.

    `peak_rss_bytes` is the high-water mark of the measured run, or, where the kernel does not let
    it be cleared (`cleared` false), of the child's whole life, building included.
    """

    peak_rss_bytes: int
    rss_after_warmup_bytes: int
    cleared: bool


def measure_peak_rss(
    target: str, arguments: Sequence[str] = (), *, timeout_s: float = 600.0
) -> RssReading:
    """Run `target` (`module:function`) with `arguments` in a fresh interpreter and read its peak.

    The child inherits the working directory and environment. Raises RssError when it fails or
    takes longer than `timeout_s`.
    """
    return RssChild(target, arguments).reading(timeout_s)


def start_peak_rss(work: Callable[[], object]) -> RssChild:
    """Send `work` to a fresh interpreter that measures it while this process goes on.

    Raises RssError when `work` cannot be pickled, as with a closure inside a model. Nothing is
    read from disk: the child trusts its own parent's pipe, as multiprocessing does.
    """
    try:
        payload = pickle.dumps(sys.path) + pickle.dumps(work)
    except Exception as error:  # a model's own __reduce__ may raise anything
        raise RssError(f"the model cannot be sent to a process of its own: {error}") from error
    return RssChild(FROM_PIPE, payload=payload)


class RssChild:
    """A child interpreter that measures one workload; `reading` waits for its answer."""

    def __init__(self, target: str, arguments: Sequence[str] = (), payload: bytes = b"") -> None:
        self.target = target
        self.folder = tempfile.TemporaryDirectory()
        self.answer = Path(self.folder.name) / "reading.json"
        self.said = Path(self.folder.name) / "stderr"
        command = [sys.executable, "-m", CHILD, str(self.answer), target, *arguments]
        with self.said.open("wb") as said:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=said
            )
        self._send(payload)

    def _send(self, payload: bytes) -> None:
        assert self.process.stdin is not None
        # A child that has died already says so in its exit code.
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(payload)
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()

    def reading(self, timeout_s: float = 600.0) -> RssReading:
        """Wait for the answer. Raises RssError when the child fails or takes too long."""
        with self.folder:
            try:
                code = self.process.wait(timeout_s)
            except subprocess.TimeoutExpired as error:
                self.process.kill()
                self.process.wait()
                raise RssError(f"{self.target} took longer than {timeout_s:g} s") from error
            if code != 0 or not self.answer.exists():
                words = self.said.read_text(errors="replace").strip().splitlines()[-1:]
                raise RssError(f"{self.target} ended with {code}: {(words or [SILENT])[0]}")
            return RssReading(**json.loads(self.answer.read_text(encoding="utf-8")))


def measure_here(workload: Callable[[], object]) -> RssReading:
    """Run `workload` dry, then measured, in this process. Only meant for a fresh one."""
    workload()
    gc.collect()
    warm = _status_bytes("VmRSS")
    cleared = _clear_mark()
    workload()
    return RssReading(_status_bytes("VmHWM"), warm, cleared)


def _status_bytes(field: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise RssError(f"the kernel does not report {field}")


def _clear_mark() -> bool:
    """Set the high-water mark back to the present resident size; false where that is refused."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def main(arguments: list[str] | None = None) -> int:
    """The child's half: build the workload, measure it, write the reading."""
    parser = argparse.ArgumentParser(prog=f"python -m {CHILD}", description=__doc__)
    parser.add_argument("answer", type=Path, help="where to write the reading (JSON)")
    parser.add_argument("target", help="module:function that returns the workload")
    parser.add_argument("arguments", nargs="*", help="its arguments, as strings")
    given = parser.parse_args(arguments)
    workload = _received() if given.target == FROM_PIPE else _built(given.target, given.arguments)
    given.answer.write_text(json.dumps(asdict(measure_here(workload))), encoding="utf-8")
    return 0


def _built(target: str, arguments: Sequence[str]) -> Callable[[], object]:
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)(*arguments)


def _received() -> Callable[[], object]:
    """The workload that the parent sent: read whole at once, so that the parent can go on."""
    stream = io.BytesIO(sys.stdin.buffer.read())
    sys.path[:] = pickle.load(stream)  # plugins of the parent are importable here too
    return pickle.load(stream)


if __name__ == "__main__":
    sys.exit(main())
