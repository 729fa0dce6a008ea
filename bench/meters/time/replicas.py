"""The same work in several processes, so that what changes between processes is sampled.

    with open_replicas(3) as replicas:
        answers = replicas.run(work)        # work() in three processes, one after the other

Replica k is forked from server k. Servers are interpreters of their own, started by exec: a forked
child inherits its server's memory layout, and the layout is the very effect to be sampled. Servers
have torch imported already, so that a replica starts in hundredths of a second. They start once per
run: `condbench run` leaves their place in an environment variable, and a trial that is run by hand
starts its own.

`work` is sent by pickle to a child of our own, and its answer comes back so, as multiprocessing
does. The sockets lie in a folder that only this user can enter.
"""

from __future__ import annotations

import os
import pickle
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.meters.time.surroundings import surroundings
from bench.records.redaction import without_secrets
from bench.records.scratch import Scratch

VARIABLE = "CONDBENCH_REPLICAS"  # the folder of a run's sockets, for its trials
SERVER = "bench.meters.time.replica_server"
LONGEST_FOLDER = 80  # bytes of TMPDIR; a socket's whole name has 107 at most
HEADER = struct.Struct("!Q")  # length of a message in bytes


class ReplicaError(RuntimeError):
    """A replica returned no answer; the message says why."""


@dataclass
class Replicas:
    """Sockets of running servers, one per replica."""

    folder: Path
    num_processes: int

    def run(self, work: Callable[[], Any], timeout_s: float = 600.0) -> list[Any]:
        """`work()` in every replica, one after the other, so that none disturbs another.

        Raises ReplicaError where `work` cannot be sent, fails, or takes longer than `timeout_s`.
        """
        try:
            # Two messages in one: the first must be adopted before the second can be read.
            payload = pickle.dumps(surroundings()) + pickle.dumps(work)
        except Exception as error:  # a model's own __reduce__ may raise anything
            raise ReplicaError(f"the models cannot be sent to another process: {error}") from error
        return [self._ask(number, payload, timeout_s) for number in range(self.num_processes)]

    def _ask(self, number: int, payload: bytes, timeout_s: float) -> Any:
        place = socket_path(self.folder, number)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(timeout_s)
            try:
                connection.connect(str(place))
                send(connection, payload)
                answer = pickle.loads(receive(connection))
            except Exception as error:  # what a result raises when it is read, too
                raise ReplicaError(f"replica {number}: {type(error).__name__}: {error}") from error
        if not answer["ok"]:
            raise ReplicaError(f"replica {number}: {answer['error']}")
        return answer["result"]


@dataclass
class Servers:
    """Running servers, and the folder of their sockets. They end with this process."""

    scratch: Scratch
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        """The folder of their sockets."""
        return self.scratch.path

    def close(self) -> None:
        """End the servers and remove their folder."""
        for process in self.processes:
            # The end of its standard input would do, but a child that was forked from this process
            # may hold the other end open, and a server that still imports torch reads nothing.
            process.terminate()
            if process.stdin is not None:
                process.stdin.close()
        for process in self.processes:
            process.wait()
        self.scratch.remove()


def start_servers(num_processes: int) -> Servers:
    """Start `num_processes` servers and return at once: connections wait until they are ready.

    Raises OSError where there is no room for a folder, a socket or a process.
    """
    servers = Servers(_make_folder())
    try:
        for number in range(num_processes):
            servers.processes.append(_start_server(socket_path(servers.folder, number)))
    except BaseException:  # Ctrl-C included: what has started would be left
        servers.close()
        raise
    return servers


def _make_folder() -> Scratch:
    """A new folder, under /tmp where TMPDIR is too long for a socket's name."""
    is_short = len(os.fsencode(tempfile.gettempdir())) <= LONGEST_FOLDER
    return Scratch(None if is_short else "/tmp")


def _start_server(place: Path) -> subprocess.Popen[bytes]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        # Listening before the server runs: its clients need not try again and again.
        listening.bind(str(place))
        listening.listen()
        return subprocess.Popen(
            [sys.executable, "-m", SERVER, str(listening.fileno()), str(place)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            pass_fds=[listening.fileno()],
            env=without_secrets(),
            start_new_session=True,  # a terminal's Ctrl-C would end it in mid-import, noisily
        )


@contextmanager
def open_replicas(num_processes: int) -> Iterator[Replicas]:
    """The replicas of the run that this process belongs to, or some of its own."""
    place = os.environ.get(VARIABLE)
    if place and all(is_served(Path(place), number) for number in range(num_processes)):
        yield Replicas(Path(place), num_processes)
        return
    servers = start_servers(num_processes)
    try:
        yield Replicas(servers.folder, num_processes)
    finally:
        servers.close()


@contextmanager
def servers_of_a_run(num_processes: int) -> Iterator[None]:
    """Servers for all trials that are started inside: their place is in the environment."""
    servers = start_servers(num_processes)
    os.environ[VARIABLE] = str(servers.folder)
    try:
        yield
    finally:
        os.environ.pop(VARIABLE, None)
        servers.close()


def is_served(folder: Path, number: int) -> bool:
    """Whether server `number` accepts connections; a socket outlives a server that was killed."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        try:
            connection.connect(str(socket_path(folder, number)))
        except OSError:
            return False
        return True


def socket_path(folder: Path, number: int) -> Path:
    """The socket of server `number`."""
    return folder / f"{number}.socket"


def send(connection: socket.socket, message: bytes) -> None:
    """One message with its length in front."""
    connection.sendall(HEADER.pack(len(message)))
    connection.sendall(message)


def receive(connection: socket.socket) -> bytes:
    """One message. Raises EOFError where the other side ends before it is complete."""
    (length,) = HEADER.unpack(_exactly(connection, HEADER.size))
    return _exactly(connection, length)


def _exactly(connection: socket.socket, length: int) -> bytes:
    parts = bytearray()
    while len(parts) < length:
        part = connection.recv(min(1 << 20, length - len(parts)))
        if not part:
            raise EOFError("the process at the other end is gone")
        parts += part
    return bytes(parts)
