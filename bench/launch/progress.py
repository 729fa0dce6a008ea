"""The display of a run on standard error: a bar on a terminal, plain lines elsewhere.

No thread and no timer: the display is redrawn when a trial starts, changes phase or ends, so that
it uses no CPU time during a measurement.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Column
from rich.text import Text

from bench.launch.forecast import Forecast, format_duration
from bench.records.redaction import printable

MARKS = {"ok": "green", "skipped": "yellow", "failed": "red", "interrupted": "yellow"}


class Display(Protocol):
    """Where the launcher reports events. Trials are named by the last parts of their folder."""

    def begin(self, groups: Sequence[str]) -> None:
        """Start a queue: one group name per trial; trials of a group take similar times."""
        ...

    def started(self, name: str, group: str, device: str) -> None:
        """A trial has started on `device`."""
        ...

    def phase(self, name: str, phase: str, share: float) -> None:
        """A trial is in `phase`, of which `share` (0..1) is done."""
        ...

    def finished(
        self, name: str, group: str, status: str, reason: str | None, took_s: float | None
    ) -> None:
        """A trial has ended, here or (`took_s` None) in another launcher; 0: it never began."""
        ...

    def message(self, text: str) -> None:
        """Show one line that belongs to no trial."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


def open_display(stream: TextIO | None = None) -> Display:
    """A bar where `stream` (default: stderr) is a terminal, plain lines elsewhere.

    stderr, so that the tables on standard output can be piped.
    """
    stream = stream or sys.stderr
    console = Console(file=stream)
    return Bar(console) if console.is_terminal and not console.is_dumb_terminal else Lines(stream)


def describe_outcome(name: str, status: str, reason: str | None, took_s: float | None) -> str:
    """One line about a finished trial."""
    how = ""
    if took_s is None:  # 0 is different: the trial never began
        how = " (by another run)"
    elif took_s:
        how = f" in {format_duration(took_s)}"
    return printable(f"{name}: {status}{how}" + (f": {reason}" if reason else ""))


@dataclass
class Lines:
    """One line per start and end: for files, pipes and CI."""

    stream: TextIO
    total: int = 0
    done: int = 0

    def begin(self, groups: Sequence[str]) -> None:
        self.total, self.done = len(groups), 0

    def started(self, name: str, group: str, device: str) -> None:
        self.message(f"start {name} on {device}")

    def phase(self, name: str, phase: str, share: float) -> None:
        """Not shown: phases would fill a log file."""

    def finished(
        self, name: str, group: str, status: str, reason: str | None, took_s: float | None
    ) -> None:
        self.done += 1
        self.message(f"[{self.done}/{self.total}] {describe_outcome(name, status, reason, took_s)}")

    def message(self, text: str) -> None:
        print(printable(text), file=self.stream, flush=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stream.flush()


@dataclass
class _Running:
    group: str
    started: float
    phase: str = "start"


class Bar:
    """Trials done of all, the running trials with their phases, and the time left."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console, self._clock = console, clock
        self._forecast = Forecast()
        self._running: dict[str, _Running] = {}
        self._bar = Progress(
            BarColumn(bar_width=16),
            MofNCompleteColumn(),
            TextColumn("{task.fields[left]}", table_column=Column(no_wrap=True)),
            # The last column is cut on a narrow terminal: it begins with the phase. markup=False,
            # as names may hold square brackets.
            TextColumn(
                "{task.description}", markup=False, table_column=Column(no_wrap=True, ratio=1)
            ),
            expand=True,
            console=console,
            auto_refresh=False,  # a refresh thread would run during measurements
            # Standard output belongs to the caller: rich would send it to the terminal too.
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._task: Any = self._bar.add_task("", total=0, left="")

    def begin(self, groups: Sequence[str]) -> None:
        self._forecast = Forecast(Counter(groups))  # the total is known only now
        self._bar.update(self._task, total=len(groups), completed=0)
        self._draw()

    def started(self, name: str, group: str, device: str) -> None:
        self._running[name] = _Running(group, self._clock())
        self._draw()

    def phase(self, name: str, phase: str, share: float) -> None:
        self._running[name].phase = f"{phase} {share:.0%}" if 0 < share < 1 else phase
        self._draw()

    def finished(
        self, name: str, group: str, status: str, reason: str | None, took_s: float | None
    ) -> None:
        self._running.pop(name, None)  # absent if it never started, or ran elsewhere
        self._forecast.finished(group, status, took_s or 0.0)
        self._bar.advance(self._task)
        line = Text(describe_outcome(name, status, reason, took_s))
        # Text, not markup: a reason may hold square brackets.
        line.highlight_words([f": {status}"], MARKS.get(status, ""))
        self._draw()
        self._bar.print(line, soft_wrap=True)

    def message(self, text: str) -> None:
        self._bar.print(Text(printable(text)), soft_wrap=True)

    def _draw(self) -> None:
        now = self._clock()
        running = self._running.values()
        left_s = self._forecast.left_s([(one.group, now - one.started) for one in running])
        left = "" if left_s is None else f"about {format_duration(left_s)} left"
        current = ", ".join(f"{one.phase}: {name}" for name, one in self._running.items())
        self._bar.update(self._task, description=current, left=left, refresh=True)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
