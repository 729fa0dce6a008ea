"""Resident memory: what a process costs, measured in a fresh child interpreter of its own.

    reading = peak_rss("bench.trial:inference_pass", [str(folder)])

The target, `module:function`, gets the arguments as strings, builds the workload and returns it as
a function without arguments. The child runs it once dry, clears the kernel's high-water mark, runs
it again and reports. A process that ran anything else before answers wrongly: freed memory stays
with the C library, and the mark never falls. No torch in the parent's half.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path


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


def peak_rss(target: str, arguments: Sequence[str] = (), *, timeout_s: float = 600.0) -> RssReading:
    """Run `target` (`module:function`) with `arguments` in a fresh interpreter and read its peak.

    The child inherits the working directory and environment. Raises RssError when it fails or
    takes longer than `timeout_s`.
    """
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "reading.json"
        command = [sys.executable, "-m", "bench.meters.rss", str(answer), target, *arguments]
        try:
            child = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s)
        except subprocess.TimeoutExpired as error:
            raise RssError(f"{target} took longer than {timeout_s:g} s") from error
        if child.returncode != 0 or not answer.exists():
            words = child.stderr.strip().splitlines()[-1:] or ["it said nothing"]
            raise RssError(f"{target} ended with {child.returncode}: {words[0]}")
        return RssReading(**json.loads(answer.read_text(encoding="utf-8")))


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
    parser = argparse.ArgumentParser(prog="python -m bench.meters.rss", description=__doc__)
    parser.add_argument("answer", type=Path, help="where to write the reading (JSON)")
    parser.add_argument("target", help="module:function that returns the workload")
    parser.add_argument("arguments", nargs="*", help="its arguments, as strings")
    given = parser.parse_args(arguments)
    module, _, name = given.target.partition(":")
    workload = getattr(importlib.import_module(module), name)(*given.arguments)
    given.answer.write_text(json.dumps(asdict(measure_here(workload))), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
