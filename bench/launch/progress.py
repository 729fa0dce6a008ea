"""What a person sees while trials run: a bar on a terminal, plain lines elsewhere; on stderr.

Nothing here wakes up by itself: the display is redrawn when a trial starts, changes phase or ends,
so that it takes no processor time from a measurement.
"""

from __future__ import annotations

import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import mean
from typing import Any, Protocol, Self, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Column
from rich.text import Text

from bench.records.redaction import printable

MARKS = {"ok": "green", "skipped": "yellow", "failed": "red", "interrupted": "yellow"}


class Display(Protocol):
    """Where the launcher says what happens. Trials are named by their folder's last parts."""

    def begin(self, groups: Sequence[str]) -> None:
        """The queue: one entry per trial, naming the group whose trials take like time."""
        ...

    def started(self, name: str, group: str, device: str) -> None: ...

    def phase(self, name: str, phase: str, share: float) -> None: ...

    def finished(
        self, name: str, group: str, status: str, reason: str | None, took_s: float | None
    ) -> None:
        """A trial has ended, here or (`took_s` None) in another launcher; 0: it never began."""
        ...

    def say(self, text: str) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


def open_display(stream: TextIO | None = None) -> Display:
    """A bar where `stream` (default: stderr) is a terminal, plain lines elsewhere."""
    stream = stream or sys.stderr
    console = Console(file=stream)
    return Bar(console) if console.is_terminal and not console.is_dumb_terminal else Lines(stream)


def duration(seconds: float) -> str:
    """ "0.4 s", "12 s", "3 min 05 s", "2 h 10 min"."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


@dataclass
class Forecast:
    """Seconds left, from what finished trials of the same group took (else: of any group)."""

    left: Counter[str] = field(default_factory=Counter)
    took_s: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def finished(self, group: str, status: str, took_s: float) -> None:
        """Count a trial out; only one that ran to its end (`ok`) teaches how long they take."""
        self.left[group] -= 1
        if status == "ok" and took_s > 0:
            self.took_s[group].append(took_s)

    def left_s(self, running: Sequence[tuple[str, float]]) -> float | None:
        """Seconds left; None before the first. `running`: (group, seconds so far) of each trial.

        As many trials as are running now are taken to run side by side until the end.
        """
        every = [value for values in self.took_s.values() for value in values]
        if not every:
            return None
        expected = {group: mean(self.took_s.get(group) or every) for group in self.left}
        total = sum(count * expected[group] for group, count in self.left.items())
        spent = sum(min(so_far, expected[group]) for group, so_far in running)
        return (total - spent) / max(1, len(running))


def outcome(name: str, status: str, reason: str | None, took_s: float | None) -> str:
    """One line about a finished trial."""
    how = " (by another run)" if took_s is None else f" in {duration(took_s)}" if took_s else ""
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
        self.say(f"start {name} on {device}")

    def phase(self, name: str, phase: str, share: float) -> None:
        """Nothing: phases would fill a log file."""

    def finished(
        self, name: str, group: str, status: str, reason: str | None, took_s: float | None
    ) -> None:
        self.done += 1
        self.say(f"[{self.done}/{self.total}] {outcome(name, status, reason, took_s)}")

    def say(self, text: str) -> None:
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
    """Trials done of all, what runs now and in which phase, and the time left."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console, self._clock = console, clock
        self._forecast = Forecast()
        self._running: dict[str, _Running] = {}
        # Standard output stays the caller's: rich would send it to the terminal too.
        self._bar = Progress(
            BarColumn(bar_width=16),
            MofNCompleteColumn(),
            TextColumn("{task.fields[left]}", table_column=Column(no_wrap=True)),
            # The last column gives way on a narrow terminal: it begins with the phase.
            TextColumn(
                "{task.description}", markup=False, table_column=Column(no_wrap=True, ratio=1)
            ),
            expand=True,
            console=console,
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._task: Any = self._bar.add_task("", total=0, left="")

    def begin(self, groups: Sequence[str]) -> None:
        self._forecast = Forecast(Counter(groups))
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
        self._running.pop(name, None)
        self._forecast.finished(group, status, took_s or 0.0)
        self._bar.advance(self._task)
        line = Text(outcome(name, status, reason, took_s))
        line.highlight_words([f": {status}"], MARKS.get(status, ""))
        self._draw()
        self._bar.print(line, soft_wrap=True)

    def say(self, text: str) -> None:
        self._bar.print(Text(printable(text)), soft_wrap=True)

    def _draw(self) -> None:
        now = self._clock()
        running = self._running.values()
        left_s = self._forecast.left_s([(one.group, now - one.started) for one in running])
        left = "" if left_s is None else f"about {duration(left_s)} left"
        current = ", ".join(f"{one.phase}: {name}" for name, one in self._running.items())
        self._bar.update(self._task, description=current, left=left, refresh=True)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
