"""Energy of a night: known joules in both arms, boards that misbehave, and what counts of it."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from bench.meters.energy import EnergyMeter
from bench.regress.checkouts.worktrees import Interface, Revision
from bench.regress.gate import ENERGY, decide, mean_ratio
from bench.regress.revisions import trial_pair, worker
from bench.regress.revisions.metrics import measure_pair
from bench.regress.revisions.paired_rounds import EnergyWindows
from bench.regress.revisions.trial_pair import TrialPair
from bench.regress.revisions.worker_process import WorkerProcess
from tests.fakes.nvml import FakeGpu

ROOT = Path(__file__).parents[3]
SHIM = ROOT / "tests" / "fakes" / "nvml_shim.c"


class SimulatedSide:
    """A side of a pair in this process: the worker's own windows over a simulated board."""

    def __init__(self, gpu: FakeGpu, pass_s: float, watts: float, name: str) -> None:
        self.revision, self.gpu = name, gpu
        self.worker = worker.Worker()
        self.worker.device = "simulated"
        work = gpu.work(pass_s, watts)
        self.worker.works = {"b64": lambda num_passes: [work() for _ in range(num_passes)]}

    def __enter__(self) -> SimulatedSide:
        return self

    def __exit__(self, *error: object) -> None:
        self.worker.held.close()

    def call(self, request: str, **details: Any) -> dict[str, Any]:
        if request == "window":
            return self.worker.window(**details)
        return {"pass_s": 0.01, "steady": True} if request == "warm" else {"seconds": 0.01}

    def send(self, request: str, **details: Any) -> None: ...

    def receive(self) -> dict[str, Any]:
        return {"protocol": 1, "counts": {}}


@pytest.fixture
def energy(tmp_path, monkeypatch):
    """energy(gpu, candidate's pass seconds, its watts): the row of that pair's energy.

    The baseline's pass takes 50 ms at 500 W: 25 J. Both work on the same board.
    """

    def measure(gpu: FakeGpu, pass_s: float = 0.05, watts: float = 500.0, device: str = "cuda"):
        def meter(_: str) -> EnergyMeter:
            return EnergyMeter("simulated", rig=gpu.rig(device))

        def side(name: str, *_: object) -> SimulatedSide:
            arms = {"old": (0.05, 500.0), "new": (pass_s, watts)}
            return SimulatedSide(gpu, *arms[name], name)

        monkeypatch.setattr(worker, "EnergyMeter", meter)
        monkeypatch.setattr(trial_pair, "WorkerProcess", side)
        measure = {"rounds": 6, "batch_sizes": [64], "block_ms": 1.0, "energy_window_s": 5.0}
        config = {"measure": measure, "gpu": {"kind": "one"}, "timeout_s": 1.0}
        pair = TrialPair("t", ("old", "new"), ({"config": config}, {"config": config}), tmp_path)
        (row,) = [row for row in measure_pair(pair).rows if row.metric == "energy b64"]
        return row

    return measure


def real() -> FakeGpu:
    """A simulated board that is not marked as fake, so that the gate's own logic is tested."""
    return FakeGpu(driver="570.1", noise_w=2.0, pids=[os.getpid(), 77])  # 77: the other side


def test_equal_joules_are_equal(energy) -> None:
    """25 J a pass on both sides: equal, the ratio 1 within half a percent."""
    row = energy(real())
    assert row.judgement == "equal"
    assert row.ratio.value == pytest.approx(1.0, abs=0.005)
    assert row.baseline == pytest.approx(25.0, rel=0.01)
    assert (row.unit, row.margins, row.ratio.num_values) == ("j", ENERGY, 5)


@pytest.mark.parametrize(("pass_s", "watts"), [(0.05, 540.0), (0.054, 500.0)])
def test_eight_percent_more_energy_is_regressed(energy, pass_s, watts) -> None:
    """27 J instead of 25, by more power or by more time: regressed and confirmed by a rerun."""
    row = energy(real(), pass_s, watts)
    assert row.judgement == "regressed"
    assert row.ratio.value == pytest.approx(1.08, abs=0.005)
    assert row.ratio.low > 1.03
    assert row.rerun.low > 1.03


def test_less_energy_is_improved(energy) -> None:
    """23 J instead of 25 is no failure."""
    assert energy(real(), 0.046).judgement == "improved"


def test_two_percent_more_is_within_the_margin(energy) -> None:
    """25.5 J instead of 25: time would be on its margin, energy's is 3 % and this is equal."""
    row = energy(real(), 0.051)
    assert (row.judgement, row.rerun) == ("equal", None)


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [
        ({"stuck_at_s": 1060.0}, "CounterStuck"),  # the clock starts at 1000 s
        ({"resets_at_s": 1060.0}, "CounterReset"),
        ({"foreign_at_s": 1060.0}, "NotExclusive"),
        ({"mig": 1}, "EnergyUnsupported"),
        ({"update_s": 1.0}, "WindowTooShort"),
    ],
)
def test_a_board_that_misbehaves_is_missing_and_never_green(energy, trouble, reason) -> None:
    """In the middle of the windows or from the start: no number, its name, and inconclusive."""
    gpu = real()
    for name, value in trouble.items():
        setattr(gpu, name, value)
    row = energy(gpu)
    assert (row.judgement, row.ratio, row.candidate) == ("inconclusive", None, None)
    assert reason in row.reason


def test_a_counter_that_contradicts_the_power_does_not_count(energy) -> None:
    """10 % more joules than the integrated power: numbers are kept, and nothing is concluded."""
    gpu = real()
    gpu.gain = 1.1
    row = energy(gpu)
    assert (row.judgement, row.ratio.value) == ("inconclusive", pytest.approx(1.0, abs=0.005))
    assert row.reason.startswith("Inconsistent")


def test_a_fake_device_proves_nothing(energy) -> None:
    """Readings of a stand-in are kept, and are neither green nor red."""
    for candidate_s in (0.05, 0.06):
        row = energy(FakeGpu(), candidate_s, device="fake")
        assert row.judgement == "inconclusive"
        assert row.reason == "measured with a fake device"


GPU = {"kind": "one", "methods": ["dense"]}


def of(verdict, metric: str = "energy b64"):
    (row,) = [row for row in verdict.rows if row.metric == metric]
    return row


def test_a_night_on_a_gpu_judges_energy_too(compared) -> None:
    """Equal joules: one energy row, one more control, green."""
    verdict = compared(GPU, **GPU)
    assert of(verdict).judgement == "equal"
    assert [row.metric for row in verdict.controls] == [
        "A/A control, time b64",
        "A/A control, energy b64",
    ]
    assert (verdict.outcome, verdict.exit_code) == ("ok", 0)


def test_more_energy_at_the_same_speed_fails_the_night(compared) -> None:
    """54 J instead of 50 at equal time: exit code 1, by energy alone."""
    verdict = compared(GPU, **GPU, joules=54.0)
    assert (of(verdict, "time b64").judgement, of(verdict).judgement) == ("equal", "regressed")
    assert of(verdict).rerun.low > 1.03
    assert verdict.exit_code == 1


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [
        ({"refused": "CounterStuck: for 3 s"}, "CounterStuck: for 3 s"),
        ({"doubt": "Implausible: a mean power of 20 W"}, "Implausible"),
        ({"joules": -0.1, "doubt": "Implausible: below idle"}, "Implausible: below idle"),
        ({"joules": 0.0}, "0 J per pass"),
    ],
)
def test_energy_that_is_missing_is_not_green(compared, trouble, reason) -> None:
    """The candidate's times are equal, its energy is not there: exit code 3 with the reason."""
    verdict = compared(GPU, **GPU, **trouble)
    assert of(verdict).judgement == "inconclusive"
    assert reason in of(verdict).reason
    assert (verdict.outcome, verdict.exit_code) == ("inconclusive", 3)


def test_no_energy_in_the_control_voids_the_night(compared) -> None:
    """Where the A/A arm cannot be measured there is no control."""
    verdict = compared({**GPU, "refused": "NotExclusive: 1 other"}, **GPU)
    assert (verdict.outcome, verdict.exit_code) == ("void", 3)


def test_noisy_windows_are_added_up_to_ten(compared) -> None:
    """Windows of the candidate that scatter by 30 % stay inconclusive after ten a side."""
    verdict = compared(GPU, **GPU, joule_spread=0.3)
    assert (of(verdict).judgement, of(verdict).ratio.num_values) == ("inconclusive", 10)
    assert verdict.exit_code == 3


@pytest.mark.parametrize(
    ("later", "end"),
    [
        ({"joules": 50.0}, ("equal", 0)),
        ({"refused": "CounterStuck: now"}, ("inconclusive", 3)),
        ({"joules": 54.0, "doubt": "Inconsistent: now"}, ("inconclusive", 3)),
    ],
)
def test_a_suspected_regression_needs_a_rerun_that_shows_it(compared, tmp_path, later, end) -> None:
    """+8 % that the rerun does not repeat, cannot measure or doubts, is no regression."""
    (tmp_path / "marks").mkdir()
    marks = {"marks": str(tmp_path / "marks"), "once": {"joules": 54.0}, "later": later}
    verdict = compared(GPU, **GPU, **marks)
    assert (of(verdict).judgement, verdict.exit_code) == end
    if end[1]:
        assert of(verdict).reason.startswith("rerun: ")
        assert ": now" in of(verdict).reason


@pytest.fixture
def boards(tmp_path, monkeypatch):
    """boards(watts, ...): real workers over the compiled stand-in driver, one process each."""
    library = tmp_path / "libnvidia-ml.so.1"
    command = ["cc", "-O1", "-shared", "-fPIC", "-o", library, SHIM, "-lpthread"]
    subprocess.run(command, check=True)
    environ = {**os.environ, "LD_LIBRARY_PATH": str(tmp_path), "PYTHONPATH": str(ROOT)}

    def make(watts: float) -> WorkerProcess:
        modules = Interface("", "tests.fakes.nvml_worker")
        revision = Revision(f"{watts:g} W", "", ROOT, sys.executable, environ, modules)
        return WorkerProcess(revision, {"WATTS": str(watts)}, 60.0)

    return make


@pytest.mark.soak
def test_known_energies_in_real_time(boards) -> None:
    """500 W against 540 W over the real bindings: +8 %, and marked as a fake device's."""
    with boards(500.0) as old, boards(540.0) as new:
        windows = EnergyWindows((old, new), "b64", 0.8)
        result = decide(windows.measure, 5, ENERGY, 10, partial(mean_ratio))
    assert result.ratio.value == pytest.approx(1.08, abs=0.03)  # a shared host jitters
    assert result.judgement in ("regressed", "inconclusive")
    assert windows.doubt == "measured with a fake device"
