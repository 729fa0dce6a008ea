"""Energy in real time, over the real nvidia-ml-py, from a stand-in driver compiled by cc."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SHIM = ROOT / "tests" / "fakes" / "nvml_shim.c"


@pytest.fixture(scope="module")
def told(tmp_path_factory) -> dict:
    """What a process with a freshly compiled libnvidia-ml.so.1 prints, by scenario."""
    folder = tmp_path_factory.mktemp("nvml")
    target = folder / "libnvidia-ml.so.1"
    command = ["cc", "-O1", "-Wall", "-Werror", "-shared", "-fPIC", "-o", target, SHIM, "-lpthread"]
    subprocess.run(command, check=True)
    environ = {**os.environ, "LD_LIBRARY_PATH": str(folder), "OMP_NUM_THREADS": "1"}
    environ.pop("CUDA_VISIBLE_DEVICES", None)
    process = [sys.executable, "-m", "tests.fakes.nvml_driver"]
    done = subprocess.run(process, capture_output=True, text=True, cwd=ROOT, env=environ)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_windows_in_real_time_are_exact(told):
    """Idle 75 W, loaded 500 W: power x duration within 5 %, whatever else the machine does; the
    update period is found, and another board's work is not counted."""
    found = told["readings"]
    assert 0.015 < found["period_s"] < 0.04  # exact in simulated time; here the host is shared
    assert found["idle_w"] == pytest.approx(75, rel=0.05)
    for name, watts in (("idle", 75), ("loaded", 500), ("other", 75)):
        assert found[name]["mean_power_w"] == pytest.approx(watts, rel=0.05), name
        assert found[name]["integral_ratio"] == pytest.approx(1, rel=0.05), name
        assert found[name]["reason"] is None
        assert found[name]["device"] == "fake"


def test_a_sensor_that_looks_part_of_the_time_is_caught_in_real_time(told):
    """5 of 20 ms seen, a load of the same period: the integrated power contradicts the counter."""
    found = told["part_time"]
    assert found["reason"] is not None
    assert found["reason"].startswith(("Inconsistent", "Implausible"))


EXPECTED = {
    "stuck": "CounterStuck",
    "mig": "EnergyUnsupported",
    "foreign process": "NotExclusive",
    "busy": "NotExclusive",
    "no counter": "EnergyUnsupported",
    "no power field": "EnergyUnsupported",
    "field call fails": "EnergyUnsupported",
    "stuck in the middle": "CounterStuck",
    "reset in the middle": "CounterReset",
    "counter lost in the middle": "DriverFailed",
    "power lost in the middle": "DriverFailed",
    "foreign process in the middle": "NotExclusive",
    "too short": "WindowTooShort",
}


def test_every_misbehaviour_has_its_name_over_the_real_bindings(told):
    """Each refusal by name, none a crash, none a number; a module's power is labelled."""
    found = dict(told["refusals"])
    assert found.pop("module scope")["scope"] == "module"
    assert {name: each.get("name") for name, each in found.items()} == EXPECTED


@pytest.mark.parametrize(
    ("variable", "numbers"),
    [
        ("", [0, 1, 2]),  # not set
        ("2,0", [2, 0]),
        ("GPU-a0000001,GPU-a0000000-0000-0000-0000-00000000fa4e", [1, 0]),
        ("1", [1]),
    ],
)
def test_a_board_is_found_by_uuid_whatever_the_order(told, variable, numbers):
    """torch's cuda:0 is the first that CUDA_VISIBLE_DEVICES names, NVML's 0 is another."""
    uuids = [f"GPU-{0xA0000000 + k:08x}-0000-0000-0000-00000000fa4e" for k in numbers]
    expected = [{"uuid": uuid, "device": "fake"} for uuid in uuids]
    assert told["devices"]["boards"][variable] == expected
    assert told["devices"]["hardware"] == "nvidia-stand-in"


def test_a_slice_of_a_board_is_refused_as_mig(told):
    """CUDA hides the prefix of a slice's UUID; its energy would be the whole board's."""
    assert told["devices"]["slice"].startswith("EnergyUnsupported: MIG")


def test_the_doctor_shows_each_boards_case(told):
    """A good board, one with MIG, one that shows only its module's power; torch is a build for
    CPUs here or sees none of them."""
    found = told["doctor"]
    assert found["driver"] == "ok: version fake-1.0, 3 board(s)"
    assert found["board 0 energy"].startswith(
        "ok: counter and NVML_FI_DEV_POWER_INSTANT, scope gpu"
    )
    assert found["board 0 processes"].startswith("warning: 1 process(es)")
    assert found["board 1 energy"].startswith("no: MIG")
    assert "scope module" in found["board 2 energy"]
