"""A worker process as its asker sees it: started, asked, ended; its last words when it dies."""

from __future__ import annotations

import json
import os
import select
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from bench.regress.revisions.answers import answer_damage
from bench.regress.revisions.deadline import Deadline
from bench.regress.revisions.worktrees import Revision

WORKER = "bench.regress.revisions.worker"
ENDLESS = Deadline()
LAST_WORDS = 800  # characters of stderr in a message


class WorkerFailed(Exception):
    """A worker that died, hung or refused; the message says which revision, and its last words."""

    def __init__(self, revision: Revision, what: str) -> None:
        super().__init__(f"{revision}: {what}")
        self.revision = revision


class Partner:
    """One worker of one revision. `ask` waits; `send` and `receive` let two work at once.

    Both raise WorkerFailed, and OutOfTime at the night's `deadline`, where the worker is ended.
    """

    def __init__(
        self,
        revision: Revision,
        variables: Mapping[str, str],
        timeout_s: float,
        deadline: Deadline = ENDLESS,
    ) -> None:
        self.revision, self.timeout_s, self.deadline = revision, timeout_s, deadline
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the worker
        self.process = subprocess.Popen(
            [revision.python, "-m", WORKER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            env={**revision.environment, **variables},
            cwd=revision.folder,
        )
        self._unread = b""
        self._asked = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """End the worker: politely if it is idle, in any case."""
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()  # the end of its stdin ends it
        try:
            self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.errors.close()

    def ask(self, do: str, **details: Any) -> dict[str, Any]:
        """The answer to one request."""
        self.send(do, **details)
        return self.receive()

    def send(self, do: str, **details: Any) -> None:
        """Ask without waiting."""
        assert self.process.stdin is not None
        self.deadline.check()
        self._asked = do
        try:
            self.process.stdin.write(json.dumps({"do": do, **details}).encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError as error:
            raise self._failed("ended") from error

    def receive(self) -> dict[str, Any]:
        """Wait for the answer to what was sent."""
        line = self._line()
        try:
            told = json.loads(line)
            if "ok" in told:
                wrong = answer_damage(self._asked, dict(told["ok"]))
                if wrong is None:
                    return dict(told["ok"])
                error = f"answers {self._asked!r} with what is no answer: {wrong}"
            else:
                error = str(told["error"])
        except (ValueError, KeyError, TypeError):
            error = f"gave no answer but {line[:80]!r}"
        raise self._failed(error)

    def _line(self) -> bytes:
        assert self.process.stdout is not None
        end_s = time.monotonic() + self.timeout_s
        while b"\n" not in self._unread:
            left_s = max(0.0, min(end_s - time.monotonic(), self.deadline.left_s))
            if not select.select([self.process.stdout], [], [], left_s)[0]:
                self.process.kill()  # it would not end by itself either
                self.deadline.check()
                raise self._failed(f"gave no answer within {self.timeout_s:g} s")
            got = os.read(self.process.stdout.fileno(), 65536)
            if not got:
                raise self._failed("ended")
            self._unread += got
        line, _, self._unread = self._unread.partition(b"\n")
        return line

    def _failed(self, what: str) -> WorkerFailed:
        self.errors.seek(0)
        words = self.errors.read().decode(errors="replace")[-LAST_WORDS:].strip()
        return WorkerFailed(self.revision, f"the worker {what}\n{words}".strip())


def write_trial(folder: Path, content: Mapping[str, Any]) -> Path:
    """A trial's folder with its trial.json, for a worker to open."""
    folder.mkdir(parents=True)
    (folder / "trial.json").write_text(json.dumps(content), encoding="utf-8")
    return folder
