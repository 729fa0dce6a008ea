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
def printed(tmp_path_factory) -> dict:
    """Output of a process with a freshly compiled libnvidia-ml.so.1, by scenario."""
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


def test_windows_in_real_time_are_exact(printed):
    """Idle 75 W, loaded 500 W: power x duration within 5 %, whatever else the machine runs.

    The update period is found, and another board's work is not counted.
    """
    found = printed["readings"]
    assert 0.015 < found["period_s"] < 0.04  # exact in simulated time; here the host is shared
    assert found["idle_w"] == pytest.approx(75, rel=0.05)
    for name, watts in (("idle", 75), ("loaded", 500), ("other", 75)):
        assert found[name]["mean_power_w"] == pytest.approx(watts, rel=0.05), name
        assert found[name]["integral_ratio"] == pytest.approx(1, rel=0.05), name
        assert found[name]["reason"] is None
        assert found[name]["device"] == "fake"


def test_a_part_time_sensor_is_detected_in_real_time(printed):
    """5 of 20 ms sampled, a load of the same period: integrated power contradicts the counter."""
    found = printed["part_time"]
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


def test_every_fault_has_its_exception_over_the_real_bindings(printed):
    """Each fault ends in its own class, none in a crash or a number; module power is labelled."""
    found = dict(printed["refusals"])
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
def test_a_board_is_found_by_uuid_whatever_the_order(printed, variable, numbers):
    """torch's cuda:0 is the first board in CUDA_VISIBLE_DEVICES, NVML's 0 is another."""
    uuids = [f"GPU-{0xA0000000 + k:08x}-0000-0000-0000-00000000fa4e" for k in numbers]
    expected = [{"uuid": uuid, "device": "fake"} for uuid in uuids]
    assert printed["devices"]["boards"][variable] == expected
    assert printed["devices"]["hardware"] == "nvidia-stand-in"


def test_a_slice_of_a_board_is_refused_as_mig(printed):
    """CUDA hides the prefix of a slice's UUID; its energy would be the whole board's."""
    assert printed["devices"]["slice"].startswith("EnergyUnsupported: MIG")


def test_the_doctor_reports_each_board(printed):
    """A usable board, one with MIG, one that reports only its module's power.

    torch is a build for CPUs here, or sees none of them.
    """
    found = printed["doctor"]
    assert found["driver"] == "ok: version fake-1.0, 3 board(s)"
    assert found["board 0 energy"].startswith(
        "ok: counter and NVML_FI_DEV_POWER_INSTANT, scope gpu"
    )
    assert found["board 0 processes"].startswith("warning: 1 process(es)")
    assert found["board 1 energy"].startswith("no: MIG")
    assert "scope module" in found["board 2 energy"]
