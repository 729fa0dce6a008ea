"""Resident memory of a whole process, measured in a fresh child interpreter.

    reading = measure_peak_rss("bench.selftest.known_bytes:workload", ["big"])
    child = start_peak_rss(partial(model, batch)); ...; reading = child.reading()

A target, `module:function`, gets the arguments as strings and returns the workload as a function
without arguments; a workload that exists already is sent to the child through a pipe. The child
runs it once dry, clears the kernel's high-water mark, runs it again and reports. A process that ran
anything else before would read too high: freed memory stays with the C library, and the mark never
falls. The parent's half does not need torch.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib
import io
import json
import pickle
import resource
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.records.scratch import Scratch

CHILD = "bench.meters.memory.resident"  # the module that a child interpreter runs
FROM_PIPE = "the workload of a pipe"  # in place of a target; no module can have this name
SAMPLE_S = 0.01  # between looks at the resident size
SLACK_BYTES = 4 * 2**20  # the kernel adds up the pages of its processors now and then only
NO_MESSAGE = "no message on stderr"


class RssError(RuntimeError):
    """The child returned no reading; the message holds the last line of its stderr."""


@dataclass(frozen=True)
class RssReading:
    """Resident bytes of a child process, interpreter and libraries included.

    `peak_rss_bytes` is the high-water mark of the measured run or, where the kernel refuses to
    clear it (`cleared` False), of the child's whole life, building included.
    """

    peak_rss_bytes: int
    rss_after_warmup_bytes: int
    cleared: bool
    swapped_bytes: int = 0  # of the child: no part of what is resident
    has_children: bool = False  # the work ran processes of its own, which are not in the reading

    @property
    def reason(self) -> str | None:
        """The reason why the peak is not that of the measured run; None if it is."""
        if not self.cleared:
            return "the kernel cleared no high-water mark: the peak contains building the model"
        if self.has_children:
            return "memory of the processes that the work started was not seen"
        if self.swapped_bytes:
            return f"{self.swapped_bytes} bytes of the process were swapped out"
        return None


def measure_peak_rss(
    target: str, arguments: Sequence[str] = (), *, timeout_s: float = 600.0
) -> RssReading:
    """Run `target` (`module:function`) with `arguments` in a fresh interpreter and read its peak.

    The child inherits the working directory and environment. Raises RssError when it fails or
    takes longer than `timeout_s`.
    """
    return RssChild(target, arguments).reading(timeout_s)


def start_peak_rss(work: Callable[[], object]) -> RssChild:
    """Send `work` to a fresh interpreter that measures it while this process continues.

    Raises RssError when `work` cannot be pickled, as with a closure inside a model. No pickle is
    read from disk: the child trusts its own parent's pipe, as multiprocessing does.
    """
    try:
        # Two pickles: the child needs the path before it can import the workload's modules.
        payload = pickle.dumps(sys.path) + pickle.dumps(work)
    except Exception as error:  # a model's own __reduce__ may raise anything
        raise RssError(f"the model cannot be sent to a process of its own: {error}") from error
    return RssChild(FROM_PIPE, payload=payload)


class RssChild:
    """A child interpreter that measures one workload; `reading` waits for the result."""

    def __init__(self, target: str, arguments: Sequence[str] = (), payload: bytes = b"") -> None:
        self.target = target
        self.folder = Scratch()
        # Files instead of pipes: workloads may print more than a pipe buffers and then block.
        self.result = self.folder.path / "reading.json"
        self.stderr = self.folder.path / "stderr"
        command = [sys.executable, "-m", CHILD, str(self.result), target, *arguments]
        with self.stderr.open("wb") as stderr:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=stderr
            )
        self._send(payload)

    def _send(self, payload: bytes) -> None:
        assert self.process.stdin is not None
        # If the child has died already, `reading` reports its exit code.
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(payload)
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()

    def reading(self, timeout_s: float = 600.0) -> RssReading:
        """Wait for the child's reading. Raises RssError when it fails or takes too long."""
        with self.folder:
            try:
                code = self.process.wait(timeout_s)
            except subprocess.TimeoutExpired as error:
                self.process.kill()
                self.process.wait()
                raise RssError(f"{self.target} took longer than {timeout_s:g} s") from error
            if code != 0 or not self.result.exists():
                last = self.stderr.read_text(errors="replace").strip().splitlines()[-1:]
                raise RssError(f"{self.target} ended with {code}: {(last or [NO_MESSAGE])[0]}")
            return RssReading(**json.loads(self.result.read_text(encoding="utf-8")))


def measure_here(workload: Callable[[], object]) -> RssReading:
    """Run `workload` dry, then measured, in this process.

    Raises RssError in any process but a fresh child: one that ran anything else before reads too
    high. Also where the high-water mark was cleared while the work ran.
    """
    if getattr(sys.modules["__main__"].__spec__, "name", None) != CHILD:
        raise RssError("resident memory is measured in a fresh process only")
    children = _children()
    workload()
    gc.collect()  # what the dry run left in reference cycles is not part of the second run
    warm = _status_bytes("VmRSS")
    cleared = _clear_mark()
    with _Sampling() as sampling:
        workload()
    peak = _status_bytes("VmHWM")
    if max(sampling.largest, warm) > peak + SLACK_BYTES:
        raise RssError(f"the high-water mark of {peak} bytes was cleared while the work ran")
    return RssReading(peak, warm, cleared, _status_bytes("VmSwap"), _children() != children)


class _Sampling:
    """The largest resident size that a thread sees meanwhile; it may miss the peak."""

    def __init__(self) -> None:
        self.largest = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="resident", daemon=True)

    def __enter__(self) -> _Sampling:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(SAMPLE_S):
            self.largest = max(self.largest, _status_bytes("VmRSS"))


def _children() -> tuple[int, str]:
    """Page faults of the child processes that ended, and the numbers of those that run."""
    faults = resource.getrusage(resource.RUSAGE_CHILDREN).ru_minflt  # no process is without one
    running = sorted(Path("/proc/self/task").glob("*/children"))
    return faults, "".join(_read(path) for path in running)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except OSError:  # a thread that has ended, or a kernel without this file
        return ""


def _status_bytes(field: str) -> int:
    """A field of /proc/self/status, which counts in KiB. Raises RssError outside Linux."""
    for line in _read(Path("/proc/self/status")).splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise RssError(f"the kernel does not report {field}")


def _clear_mark() -> bool:
    """Reset the high-water mark to the present resident size; False where that is refused."""
    try:
        # "5" resets VmHWM (proc(5)); some containers mount /proc read-only.
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def main(arguments: list[str] | None = None) -> int:
    """Entry point of the child: build the workload, measure it, write the reading."""
    parser = argparse.ArgumentParser(prog=f"python -m {CHILD}", description=__doc__)
    parser.add_argument("result", type=Path, help="where to write the reading (JSON)")
    parser.add_argument("target", help="module:function that returns the workload")
    parser.add_argument("arguments", nargs="*", help="its arguments, as strings")
    chosen = parser.parse_args(arguments)
    if chosen.target == FROM_PIPE:
        workload = _receive_workload()
    else:
        workload = _build_workload(chosen.target, chosen.arguments)
    chosen.result.write_text(json.dumps(asdict(measure_here(workload))), encoding="utf-8")
    return 0


def _build_workload(target: str, arguments: Sequence[str]) -> Callable[[], object]:
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)(*arguments)


def _receive_workload() -> Callable[[], object]:
    """The workload that the parent sent, read in full at once, so that the parent can continue."""
    stream = io.BytesIO(sys.stdin.buffer.read())
    sys.path[:] = pickle.load(stream)  # plugins of the parent are importable here too
    return pickle.load(stream)


if __name__ == "__main__":
    sys.exit(main())
