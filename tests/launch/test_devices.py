"""Devices and their locks; two open files stand for two processes, as flock sees them."""

from __future__ import annotations

import subprocess

import pytest

from bench.launch import devices
from bench.launch.devices import Machine, NoSuchDevice, visible_gpus

CPU = ((),)


@pytest.fixture
def machine(tmp_path) -> Machine:
    """A machine with two GPUs and locks of its own."""
    return Machine(("GPU-a", "GPU-b"), tmp_path)


def test_cpu_is_reserved_once(machine) -> None:
    """One trial at a time gets the CPU, until it is released."""
    first = machine.claim(CPU)
    assert machine.claim(CPU) is None
    first.release()
    assert machine.claim(CPU) is not None


def test_gpus_are_reserved_one_each(machine) -> None:
    """Each GPU goes to one trial; the third has to wait."""
    choices = machine.choices("one", None)
    names = [machine.claim(choices).name for _ in range(2)]
    assert names == ["GPU-a", "GPU-b"]
    assert machine.claim(choices) is None


def test_cpu_trial_has_the_host_alone(machine) -> None:
    """A CPU trial waits for GPU trials, and GPU trials for it: either would disturb the other."""
    gpu = machine.claim(machine.choices("one", "GPU-a"))
    assert machine.claim(CPU) is None
    gpu.release()
    assert machine.claim(CPU) is not None
    assert machine.claim(machine.choices("one", "GPU-b")) is None


def test_ddp_takes_all_or_nothing(machine) -> None:
    """A distributed trial gets all its GPUs at once and holds none while it waits for one."""
    one = machine.claim(machine.choices("one", "GPU-b"))
    both = machine.choices("ddp", None)
    assert both == (("GPU-a", "GPU-b"),)
    assert machine.claim(both) is None
    other = machine.claim(machine.choices("one", "GPU-a"))
    assert other is not None
    one.release()
    other.release()
    assert machine.claim(both).variables == {"CUDA_VISIBLE_DEVICES": "GPU-a,GPU-b"}


def test_lock_outlives_the_launcher_in_the_trial(machine) -> None:
    """A process that inherited the lock keeps the device after the launcher has released it."""
    claim = machine.claim(CPU)
    with subprocess.Popen(["sleep", "600"], pass_fds=claim.files) as trial:
        claim.release()
        assert machine.claim(CPU) is None
        trial.kill()
    assert machine.claim(CPU) is not None


def test_holder_is_named(machine) -> None:
    """A launcher that has to wait can display the holder."""
    assert machine.holders(CPU) == "another process"
    machine.claim(CPU).sign("process 7 (digits/moe)")
    assert machine.holders(CPU) == "process 7 (digits/moe)"


@pytest.mark.parametrize(
    ("kind", "device", "absent"), [("one", "GPU-z", "GPU-z"), ("ddp", "GPU-a, GPU-y", "GPU-y")]
)
def test_absent_device_is_rejected(machine, kind, device, absent) -> None:
    """The error for an absent device names it and the devices present."""
    with pytest.raises(NoSuchDevice, match=f"needs {absent}, .* has GPU-a, GPU-b"):
        machine.choices(kind, device)


def test_gpu_trial_on_a_cpu_machine_is_rejected(tmp_path) -> None:
    """gpu=one without any GPU is rejected with that reason."""
    with pytest.raises(NoSuchDevice, match="this machine has no GPU"):
        Machine((), tmp_path).choices("one", None)


@pytest.mark.parametrize(
    ("variable", "seen"),
    [
        (None, ("GPU-aa", "GPU-bb")),
        ("", ()),
        ("1,0", ("GPU-bb", "GPU-aa")),
        ("GPU-b", ("GPU-bb",)),
        ("0,7,1", ("GPU-aa",)),  # as in CUDA, the first unknown name ends the list
        ("MIG-1234", ("MIG-1234",)),
    ],
)
def test_visible_gpus(monkeypatch, variable, seen) -> None:
    """CUDA_VISIBLE_DEVICES selects and orders GPUs by number, UUID prefix or MIG name."""
    present = [{"uuid": "GPU-aa"}, {"uuid": "GPU-bb"}, {"uuid": None}]
    monkeypatch.setattr(devices.environment, "gpus", lambda: present)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if variable is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", variable)
    assert visible_gpus() == seen


def test_lock_folder_is_private() -> None:
    """Device locks lie in a folder that only this user can write."""
    folder = devices.lock_folder()
    assert folder.stat().st_mode & 0o077 == 0


def test_lock_folder_of_another_user_is_rejected(monkeypatch) -> None:
    """A folder that another user created is not trusted."""
    devices.lock_folder()
    mine = devices.os.getuid()
    calls = iter([mine, mine + 1])
    monkeypatch.setattr(devices.os, "getuid", lambda: next(calls))
    with pytest.raises(PermissionError, match="owned by another user"):
        devices.lock_folder()


def test_a_sign_without_a_lock_is_nobodys(machine) -> None:
    """What an ended holder signed stays in the file and is not shown."""
    claim = machine.claim(CPU)
    claim.sign("process 7 (digits/moe)")
    claim.release()
    assert machine.holders(CPU) == "another process"
