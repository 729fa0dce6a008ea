"""First come, first served: runs get devices in the order in which they began."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.launch.devices import Machine
from bench.launch.turns import QUEUE, take_turn

CPU = ((),)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """Two GPUs and locks of its own."""
    return Machine(("GPU-a", "GPU-b"), tmp_path)


def test_a_free_device_is_left_to_the_run_that_waited_before(machine: Machine) -> None:
    """Second and third wait for the CPU: when it is free the third does not get it first."""
    held = machine.claim(CPU)
    with take_turn(machine.locks) as second, take_turn(machine.locks) as third:
        second.wait_for(CPU)
        third.wait_for(CPU)
        held.release()
        assert machine.claim(CPU, third) is None
        claim = machine.claim(CPU, second)
        assert claim is not None
        claim.release()
        second.wait_for(())  # it has no trial left
        assert machine.claim(CPU, third) is not None


def test_between_two_trials_of_a_run_no_later_one_comes_in(machine: Machine) -> None:
    """A run that has a trial left waits for the device while its own trial uses it."""
    with take_turn(machine.locks) as first, take_turn(machine.locks) as second:
        first.wait_for(CPU)
        second.wait_for(CPU)
        machine.claim(CPU, first).release()
        assert machine.claim(CPU, second) is None


@pytest.mark.parametrize(
    ("earlier", "later", "waits"),
    [
        ((("GPU-a",),), (("GPU-b",),), False),
        ((("GPU-a",),), (("GPU-a",), ("GPU-b",)), False),  # the other one will do
        ((("GPU-a",), ("GPU-b",)), (("GPU-b",),), True),
        ((("GPU-a", "GPU-b"),), (("GPU-b",),), True),
        (CPU, (("GPU-b",),), True),  # a CPU trial needs the host alone
        ((("GPU-a",),), CPU, True),
    ],
)
def test_only_runs_that_want_the_same_wait(machine: Machine, earlier, later, waits) -> None:
    """Devices that no earlier run can use are free for everybody."""
    with take_turn(machine.locks) as first, take_turn(machine.locks) as second:
        first.wait_for(earlier)
        assert (machine.claim(later, second) is None) == waits


def test_a_dead_run_is_not_waited_for(machine: Machine) -> None:
    """Killed, it leaves its ticket behind, which the next one removes."""
    code = (
        "import sys, time; from pathlib import Path; from bench.launch.turns import take_turn\n"
        "with take_turn(Path(sys.argv[1])) as turn:\n"
        "    turn.wait_for([()]); print(1, flush=True); time.sleep(600)"
    )
    command = [sys.executable, "-c", code, str(machine.locks)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as run:
        run.stdout.readline()
        with take_turn(machine.locks) as turn:
            assert machine.claim(CPU, turn) is None
            assert str(machine.wait(CPU, turn)) == (
                f"a device that is left to an earlier run (process {run.pid}); place 2 in the queue"
            )
            run.kill()
            run.wait()
            assert machine.claim(CPU, turn) is not None
    assert list((machine.locks / QUEUE).iterdir()) == []


def test_a_wait_names_holder_age_and_place(machine: Machine) -> None:
    """Held for two minutes, behind one other run; only the age changes without being news."""
    claim = machine.claim(CPU)
    claim.sign("process 7 (digits/moe)")
    signed = time.time() - 125.0
    os.utime(machine.locks / "cpu.lock", (signed, signed))
    with take_turn(machine.locks) as first, take_turn(machine.locks) as second:
        first.wait_for(CPU)
        found = machine.wait(CPU, second)
        assert str(found) == (
            "a device held by process 7 (digits/moe) for 2 min 05 s; place 2 in the queue"
        )
        os.utime(machine.locks / "cpu.lock")
        assert machine.wait(CPU, second) == found
        first.wait_for(())
        assert machine.wait(CPU, second) != found


def test_a_damaged_ticket_holds_nobody_up(machine: Machine) -> None:
    """What cannot be read waits for nothing."""
    with take_turn(machine.locks) as first, take_turn(machine.locks) as second:
        first.wait_for(CPU)
        os.ftruncate(first.file, 5)
        assert machine.claim(CPU, second) is not None
