"""A server that forks one replica per connection.

    python -m bench.meters.time.replica_server FD SOCKET

It has imported torch and has started no thread, so that a fork is safe. It ends when its standard
input does, that is with the process that started it, and removes its socket. A replica ends when
its client does.
"""

from __future__ import annotations

import io
import os
import pickle
import select
import signal
import socket
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch  # noqa: F401  # imported for the replicas

from bench.meters.time import paired  # noqa: F401
from bench.meters.time.replicas import receive, send
from bench.records.scratch import OWNER


def serve(listening: socket.socket) -> None:
    """Fork a replica for every connection, until standard input ends."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps what has ended
    # A terminal's Ctrl-C reaches every process; the owner decides when its servers end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        ready, _, _ = select.select([listening, sys.stdin], [], [])
        if sys.stdin in ready:
            return
        connection, _ = listening.accept()
        if os.fork() == 0:
            listening.close()
            _answer(connection)
        connection.close()


def _answer(connection: socket.socket) -> None:
    """Do the work of one connection, answer, and end this process."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    code = 1
    try:
        stream = io.BytesIO(receive(connection))
        pickle.load(stream).adopt()  # first: the work's plugins are found by the client's path
        work = pickle.load(stream)
        threading.Thread(target=_end_with_client, args=(connection,), daemon=True).start()
        answer: dict[str, Any] = {"ok": True, "result": work()}
        message = pickle.dumps(answer)
        code = 0
    except BaseException as error:  # whatever a model does, sys.exit included
        message = pickle.dumps({"ok": False, "error": f"{type(error).__name__}: {error}"})
    finally:
        try:
            send(connection, message)
        finally:
            os._exit(code)


def _end_with_client(connection: socket.socket) -> None:
    """A client sends nothing more: reading ends when it is gone, and then this replica does."""
    try:
        connection.recv(1)
    finally:
        os._exit(1)


if __name__ == "__main__":
    place = Path(sys.argv[2])
    try:
        serve(socket.socket(fileno=int(sys.argv[1])))
    finally:
        # An owner that was killed removes nothing; the last server to end removes the folder.
        place.unlink(missing_ok=True)
        with suppress(OSError):
            if {each.name for each in place.parent.iterdir()} == {OWNER}:
                (place.parent / OWNER).unlink()
            place.parent.rmdir()
