"""Work in several processes: answers and errors come back, nothing outlives its owner."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from bench.meters.time import replicas
from bench.meters.time.replicas import ReplicaError, Replicas, open_replicas, start_servers


@pytest.fixture(scope="module")
def three() -> Iterator[Replicas]:
    """Three servers for all tests here."""
    servers = start_servers(3)
    yield Replicas(servers.folder, 3)
    servers.close()


def infer(model: nn.Module, x: torch.Tensor) -> tuple[int, int, float]:
    """The process, its parent, and what a model gives there."""
    with torch.inference_mode():
        return os.getpid(), os.getppid(), float(model(x).sum())


def test_every_replica_is_a_process_of_another_server(three: Replicas) -> None:
    """Three processes with three parents, none of them ours, and the same result as here."""
    model, x = nn.Linear(4, 2), torch.ones(1, 4)
    found = three.run(partial(infer, model, x))
    assert len({process for process, _, _ in found} | {os.getpid()}) == 4
    assert len({parent for _, parent, _ in found} | {os.getpid()}) == 4
    wanted = float(model(x).detach().sum())
    assert [result for _, _, result in found] == pytest.approx([wanted] * 3)


def test_a_second_work_is_forked_from_the_same_servers(three: Replicas) -> None:
    """New processes, the same parents: what a run samples are its servers."""
    first, second = (three.run(partial(infer, nn.Linear(4, 2), torch.ones(1, 4))) for _ in "ab")
    assert [parent for _, parent, _ in first] == [parent for _, parent, _ in second]
    assert {process for process, _, _ in first}.isdisjoint(process for process, _, _ in second)


def fail() -> None:
    raise ValueError("no such layer")


def test_errors_come_back_with_their_cause(three: Replicas) -> None:
    """What the work raises is named, and the servers serve on."""
    with pytest.raises(ReplicaError, match="replica 0: ValueError: no such layer"):
        three.run(fail)
    with pytest.raises(ReplicaError, match="SystemExit"):
        three.run(partial(sys.exit, 3))
    with pytest.raises(ReplicaError, match="replica 0: EOFError: the process at the other end"):
        three.run(partial(os._exit, 3))
    assert three.run(os.getppid)


def test_what_cannot_be_sent_is_named(three: Replicas) -> None:
    """A closure inside a model has no pickle."""
    model = nn.Linear(1, 1)
    model.register_forward_hook(lambda *given: None)
    with pytest.raises(ReplicaError, match="cannot be sent to another process"):
        three.run(partial(infer, model, torch.ones(1, 1)))


def test_too_long_is_an_error_and_the_replica_ends(three: Replicas) -> None:
    """After the time limit the client is gone, and its replica with it."""
    with pytest.raises(ReplicaError, match=r"TimeoutError|timed out"):
        three.run(partial(time.sleep, 60), timeout_s=0.2)
    assert three.run(os.getpid, timeout_s=30)


@pytest.mark.soak
def test_a_run_leaves_its_servers_to_its_trials() -> None:
    """Inside, `open_replicas` finds them by the environment; afterwards nothing is left."""
    with replicas.servers_of_a_run(2):
        place = Path(os.environ[replicas.VARIABLE])
        assert place.stat().st_mode & 0o777 == 0o700
        with open_replicas(2) as found:
            assert found.folder == place
            parents = found.run(os.getppid)
        with open_replicas(1) as fewer:
            assert fewer.run(os.getppid) == parents[:1]
    assert replicas.VARIABLE not in os.environ
    assert not place.exists()
    for parent in parents:
        with pytest.raises(ProcessLookupError):
            os.kill(parent, 0)


OWNER = """
import sys
from bench.meters.time.replicas import Replicas, start_servers
import os
servers = start_servers(1)
print(*Replicas(servers.folder, 1).run(os.getppid), flush=True)
sys.stdin.read()
"""


@pytest.mark.soak
def test_servers_end_with_their_owner() -> None:
    """Also when the owner is killed and can clean up nothing."""
    command = [sys.executable, "-c", OWNER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as owner:
        server = int(owner.stdout.readline())
        os.kill(server, 0)
        owner.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            os.kill(server, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    raise AssertionError("the server has outlived its owner")
