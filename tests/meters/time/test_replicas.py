"""Work in several processes: answers and errors come back, nothing outlives its owner."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
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


class Unreadable:
    """A result that fails where it is read."""

    def __reduce__(self) -> tuple[type, tuple[str]]:
        return int, ("no number",)


def test_a_result_that_cannot_be_read_is_an_error_of_the_replica(three: Replicas) -> None:
    """Timing falls back to one process after a ReplicaError, and after nothing else."""
    with pytest.raises(ReplicaError, match="replica 0: ValueError: invalid literal"):
        three.run(Unreadable)


def test_a_replica_has_the_environment_of_its_client(
    three: Replicas, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The trial's GPU is named there; the server has that of the run, which started it before."""
    three.run(int)  # the servers have started, with another environment
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-of-the-trial")
    monkeypatch.delenv("HOME")
    monkeypatch.chdir(tmp_path)
    for name, wanted in (("CUDA_VISIBLE_DEVICES", "GPU-of-the-trial"), ("HOME", None)):
        assert three.run(partial(os.getenv, name)) == [wanted] * 3
    assert three.run(os.getcwd) == [str(tmp_path)] * 3


def shout() -> None:
    os.write(2, b"a warning of the model\n")


def test_output_of_a_replica_goes_into_the_trial_s_log(three: Replicas, tmp_path: Path) -> None:
    """The terminal of the run, which the servers have, shows its progress."""
    place = tmp_path / "log.txt"
    before = os.dup(2)
    log = os.open(place, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    try:
        os.dup2(log, 2)
        three.run(shout)
    finally:
        os.dup2(before, 2)
        os.close(before)
        os.close(log)
    assert place.read_text() == "a warning of the model\n" * 3


def gone(process: int) -> bool:
    """Whether a process ends within 30 s."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


def test_a_dead_server_is_an_error_and_others_are_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """A socket outlives its server; a trial with a stale variable has servers of its own."""
    servers = start_servers(1)
    try:
        servers.processes[0].kill()
        servers.processes[0].wait()
        with pytest.raises(ReplicaError, match="replica 0: Connection"):
            Replicas(servers.folder, 1).run(int, timeout_s=30)
        monkeypatch.setenv(replicas.VARIABLE, str(servers.folder))
        with open_replicas(1) as own:
            assert own.folder != servers.folder
        assert not own.folder.exists()
    finally:
        servers.close()


def test_closing_does_not_wait_for_children_that_hold_the_pipe() -> None:
    """A data loader's worker, forked from the owner, has the end of the servers' input too."""
    servers = start_servers(1)
    child = os.fork()
    if child == 0:
        time.sleep(60)
        os._exit(0)
    try:
        begin = time.monotonic()
        servers.close()
        assert time.monotonic() - begin < 30
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_a_start_that_fails_leaves_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither a folder nor the servers that had started."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(replicas.sys, "executable", str(tmp_path / "no python"))
    with pytest.raises(FileNotFoundError):
        start_servers(2)
    assert list(tmp_path.iterdir()) == []


def test_a_long_tmpdir_is_no_obstacle(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The name of a socket has 107 bytes at most."""
    deep = tmp_path / ("long" * 30)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    servers = start_servers(1)
    servers.close()
    assert servers.folder.parent == Path("/tmp")


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
print(*Replicas(servers.folder, 1).run(os.getppid), servers.folder, flush=True)
sys.stdin.read()
"""


@pytest.mark.soak
def test_servers_end_with_their_owner() -> None:
    """Also when the owner is killed and can clean up nothing: their folder goes with them."""
    command = [sys.executable, "-c", OWNER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as owner:
        number, place = owner.stdout.readline().decode().split()
        server, folder = int(number), Path(place)
        os.kill(server, 0)
        owner.send_signal(signal.SIGKILL)
    assert gone(server)
    assert not folder.exists()
