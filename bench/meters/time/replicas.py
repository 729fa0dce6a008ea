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
import shutil
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

VARIABLE = "CONDBENCH_REPLICAS"  # the folder of a run's sockets, for its trials
SERVER = "bench.meters.time.replica_server"
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
            # Two messages in one: the path must be set before the work can be read.
            payload = pickle.dumps(sys.path) + pickle.dumps(work)
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
            except (OSError, EOFError) as error:
                raise ReplicaError(f"replica {number}: {type(error).__name__}: {error}") from error
        if not answer["ok"]:
            raise ReplicaError(f"replica {number}: {answer['error']}")
        return answer["result"]


@dataclass
class Servers:
    """Running servers, and the folder of their sockets. They end with this process."""

    folder: Path
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def close(self) -> None:
        """End the servers and remove their folder."""
        for process in self.processes:
            if process.stdin is not None:
                process.stdin.close()  # a server ends when its standard input does
        for process in self.processes:
            process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


def start_servers(num_processes: int) -> Servers:
    """Start `num_processes` servers and return at once: connections wait until they are ready."""
    servers = Servers(Path(tempfile.mkdtemp(prefix="condbench-")))  # mode 700
    for number in range(num_processes):
        place = socket_path(servers.folder, number)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
            # Listening before the server runs: its clients need not try again and again.
            listening.bind(str(place))
            listening.listen()
            servers.processes.append(
                subprocess.Popen(
                    [sys.executable, "-m", SERVER, str(listening.fileno())],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    pass_fds=[listening.fileno()],
                )
            )
    return servers


@contextmanager
def open_replicas(num_processes: int) -> Iterator[Replicas]:
    """The replicas of the run that this process belongs to, or some of its own."""
    place = os.environ.get(VARIABLE)
    if place is not None and socket_path(Path(place), num_processes - 1).exists():
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
