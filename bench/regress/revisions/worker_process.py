"""A worker process as seen from the comparison: started, called, ended; its last output if it dies.

Requests and replies are JSON lines, see `worker`.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import tempfile
import time
from collections.abc import Mapping
from typing import Any, NoReturn, Self

from bench.records.redaction import bounded
from bench.regress.checkouts.worktrees import Revision
from bench.regress.revisions.deadline import Deadline
from bench.regress.revisions.replies import reply_error

NO_DEADLINE = Deadline()
MAX_OUTPUT = 800  # bytes of stderr in a message
MAX_REPLY_BYTES = 2**18  # our own have 2 KB
MAX_ERROR = 4000  # characters of an exception, as in a record
GRACE_S = 5  # for a worker to end by itself


class WorkerFailed(Exception):
    """A worker that died, hung or failed; the message names its revision and its last output."""

    def __init__(self, revision: Revision, problem: str) -> None:
        super().__init__(f"{revision}: {problem}")
        self.revision = revision


class WorkerProcess:
    """One worker of one revision. `call` waits; `send` and `receive` let two work at once.

    All raise WorkerFailed, and OutOfTime at the night's `deadline`. `timeout_s` is the limit of
    one reply.
    """

    def __init__(
        self,
        revision: Revision,
        variables: Mapping[str, str],
        timeout_s: float,
        deadline: Deadline = NO_DEADLINE,
    ) -> None:
        self.revision, self.timeout_s, self.deadline = revision, timeout_s, deadline
        # A file, not a pipe: a full pipe that is not read would block the worker.
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the worker
        self.process = subprocess.Popen(
            [revision.python, "-m", revision.interface.worker],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            env={**revision.environment, **variables},
            cwd=revision.folder,
        )
        self._unread = b""  # what was read beyond the last reply
        self._request = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """End the worker: by the end of its stdin if it is idle, by a signal otherwise."""
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()
        try:
            self.process.wait(timeout=GRACE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.errors.close()

    def call(self, request: str, **details: Any) -> dict[str, Any]:
        """Send a request and wait for its reply."""
        self.send(request, **details)
        return self.receive()

    def send(self, request: str, **details: Any) -> None:
        """Send a request without waiting."""
        assert self.process.stdin is not None
        self.deadline.check()
        self._request = request  # its reply has no name: one request is open at a time
        try:
            self.process.stdin.write(json.dumps({"do": request, **details}).encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError as error:
            raise self._failed("ended") from error

    def receive(self) -> dict[str, Any]:
        """Wait for the reply to the last request."""
        line = self._read_line()
        try:
            message = json.loads(line)
            if "ok" in message:
                wrong = reply_error(self._request, dict(message["ok"]))
                if wrong is None:
                    return dict(message["ok"])
                problem = f"sent an invalid reply to {self._request!r}: {wrong}"
            else:
                problem = f"failed: {bounded(str(message['error']), MAX_ERROR)}"
        except (ValueError, KeyError, TypeError, RecursionError):
            problem = f"sent an invalid reply to {self._request!r}: {line[:80]!r}"
        raise self._failed(problem)

    def _read_line(self) -> bytes:
        assert self.process.stdout is not None
        end_s = time.monotonic() + self.timeout_s
        # A reply may arrive in pieces: select() and os.read() instead of a blocking readline().
        while b"\n" not in self._unread:
            left_s = max(0.0, min(end_s - time.monotonic(), self.deadline.left_s))
            if not select.select([self.process.stdout], [], [], left_s)[0]:
                self.process.kill()  # a worker that hangs does not see the end of its stdin
                self.deadline.check()
                raise self._failed(f"sent no reply within {self.timeout_s:g} s")
            piece = os.read(self.process.stdout.fileno(), 65536)
            if not piece:  # the end of its stdout: the process has exited
                raise self._failed("ended")
            self._unread += piece
            if len(self._unread) > MAX_REPLY_BYTES:
                self._refuse(f"a reply of more than {MAX_REPLY_BYTES:,} bytes")
        line, _, rest = self._unread.partition(b"\n")
        # One request has one reply: a second one would be taken for that of the next request.
        if rest:
            self._refuse("more than one reply")
        self._unread = b""
        return line

    def _refuse(self, what: str) -> NoReturn:
        self.process.kill()  # it may be blocked while it writes the rest
        raise self._failed(
            f"sent {what} to {self._request!r}: what a model prints belongs on stdout or stderr, "
            "never on the worker's own channel"
        )

    def _failed(self, problem: str) -> WorkerFailed:
        # The end of a traceback names the exception; its start is cut off.
        self.errors.seek(max(0, self.errors.seek(0, os.SEEK_END) - MAX_OUTPUT))
        output = self.errors.read(MAX_OUTPUT).decode(errors="replace").strip()
        return WorkerFailed(self.revision, f"the worker {problem}\n{output}".strip())
