"""The questions for a real board, asked of simulated ones whose answers are known."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from bench.meters.energy import EnergyMeter
from bench.selftest.energy import __main__, questions
from bench.selftest.energy.answers import markdown
from bench.selftest.energy.traces import read_trace, record_trace, write_trace
from tests.fakes.nvml import FakeGpu
from tests.fakes.replay import ReplayedGpu

RECORDED = Path(__file__).parents[3] / "results" / "published"


def board(**settings):
    gpu = FakeGpu(**settings)
    return gpu, EnergyMeter("fake", gpu.rig()), lambda seconds: gpu.work(seconds)()


def test_update_periods_are_found_idle_and_loaded():
    """A counter that moves every 50 ms, in steps of at least 75 W x 50 ms."""
    gpu, _, busy = board(update_s=0.05)
    idle, loaded = questions.periods(gpu.rig(), busy)
    assert (idle["load"], loaded["load"]) == ("idle", "loaded")
    assert idle["counter_period_s"] == pytest.approx(0.05, rel=0.02)
    assert loaded["counter_period_s"] == pytest.approx(0.05, rel=0.02)
    assert idle["smallest_step_mj"] == pytest.approx(3750, abs=1)
    assert idle["power_period_s"] is None  # constant power never changes
    assert loaded["mean_power_w"] > 400


def test_a_whole_sensor_sees_square_waves_and_a_part_time_one_does_not():
    """Periods of 50 and 100 ms at eight phases: the counter is duty x power, or far from it."""
    waves_s = (0.05, 0.1)
    _, meter, busy = board()
    whole = questions.square_waves(meter, busy, 2.5, waves_s)
    assert [row["wave_s"] for row in whole] == [0.05] * 8 + [0.1] * 8
    assert all(abs(row["counter_over_expected"] - 1) < 0.05 for row in whole)
    _, meter, busy = board(part_s=0.025)
    part = questions.square_waves(meter, busy, 2.5, (0.1,))
    ratios = [row["counter_over_expected"] for row in part]
    assert max(ratios) - min(ratios) > 0.3


def test_the_same_work_twice_is_one():
    """The A/A control by window length; a window that is too short says so."""
    _, meter, busy = board()
    short, long = questions.same_work(meter, busy, 3, (1.0, 2.5))
    assert short["refused"].startswith("WindowTooShort")
    assert long["ratio"] == pytest.approx(1, rel=0.005)
    assert long["low"] <= 1 <= long["high"]


def test_every_part_is_asked_and_written(tmp_path):
    """The whole program but for CUDA: answers as JSON and tables, traces that can be read."""
    gpu, meter, busy = board(noise_w=2.0)
    load = SimpleNamespace(
        device=torch.device("cuda", 0),
        busy=busy,
        wave=lambda period_s: (busy(period_s / 2), gpu.clock.sleep(period_s / 2)),
        host_over_device_time=lambda: 1.02,
    )
    parts = ["periods", "waves", "zeus", "traces"]
    notes = __main__.Notes(tmp_path)
    notes.add(idle_w_without_context=70.0, **__main__._basics(meter, load))
    assert __main__.ask(parts, meter, load, 2, notes) == []
    answers = json.loads((tmp_path / "energy.json").read_text())
    text = (tmp_path / "energy.md").read_text()
    assert "### Updates" in text
    assert "### Square waves" in text
    assert answers["steady_load"]["counter_over_integral"] == pytest.approx(1, abs=0.02)
    assert answers["facts"]["device"] == "fake"
    assert read_trace(tmp_path / "traces", "wave").gross_j > 0


def test_a_second_opinion_on_the_same_passes():
    """A monitor that reads 2 % less over as many passes: 1.02."""
    gpu, meter, _ = board()
    begun = []

    class Zeus:
        def begin_window(self, name, sync_execution):
            begun.append(gpu.clock.now)

        def end_window(self, name, sync_execution):
            return SimpleNamespace(gpu_energy={0: gpu.true_j(begun[0], gpu.clock.now) / 1.02})

    answer = questions.against_zeus(meter, gpu.work(0.02), 2.5, Zeus())
    assert answer["ratio"] == pytest.approx(1.02, rel=0.003)


def test_processes_may_be_hidden():
    """A container may show none, or the host's numbers."""
    assert questions.processes(FakeGpu(pids=[7]).rig()) == {
        "visible": True,
        "num": 1,
        "own_is_among_them": False,
    }


def test_the_answers_become_tables():
    """One line per period with the extremes over the phases; what was not asked is not there."""
    _, meter, busy = board()
    answers = {
        "facts": meter.facts(),
        "idle_w_without_context": 70.0,
        "idle_w_with_context": 75.0,
        "processes": {"visible": False},
        "steady_load": {
            "mean_power_w": 500.0,
            "counter_over_integral": 1.01,
            "host_over_device_time": None,
        },
        "square_waves": questions.square_waves(meter, busy, 2.5, (0.05,)),
    }
    text = markdown(answers)
    assert "device=fake" in text
    assert "### Square waves" in text
    assert "| 50 " in text
    assert "### Updates" not in text
    assert json.dumps(answers, allow_nan=False)


def test_recorded_windows_are_read_again_to_the_same_energy(tmp_path):
    """Replayed through the meter: the same joules. A simulated board's recording, and those of real
    boards that `make energy` has left in results/published."""
    gpu, meter, _ = board(noise_w=3.0, phase_s=0.03)
    write_trace(tmp_path, "steady", record_trace(meter, gpu.work(0.013), 2.5))
    for path in (tmp_path / "steady.csv", *sorted(RECORDED.glob("energy-*/traces/*.csv"))):
        trace = read_trace(path.parent, path.stem)
        replay = ReplayedGpu(trace)
        seconds = 20 * trace.calibration.update_period_s
        reading = replay.meter().measure(replay.rest_of_work(), seconds, trace.pause_s)
        assert reading.gross_j == pytest.approx(trace.gross_j, rel=0.01), path


def test_a_trace_survives_its_file(tmp_path):
    """Samples to the microsecond and milliwatt, moments and calibration as they were."""
    gpu, meter, _ = board(noise_w=3.0)
    trace = record_trace(meter, gpu.work(0.013), 2.0)
    write_trace(tmp_path, "wave", trace)
    again = read_trace(tmp_path, "wave")
    assert again.calibration == trace.calibration
    assert (again.begin_s, again.end_s, again.gross_j) == (
        trace.begin_s,
        trace.end_s,
        trace.gross_j,
    )
    assert [s.energy_mj for s in again.samples] == [s.energy_mj for s in trace.samples]
    assert all(
        abs(a.time_s - b.time_s) < 1e-6 for a, b in zip(again.samples, trace.samples, strict=True)
    )


def test_without_a_gpu_the_program_says_so(monkeypatch, capsys):
    """Exit code 2 and a reason; nothing is written."""
    monkeypatch.setattr(__main__, "visible_gpus", lambda: ())
    assert __main__.main([]) == 2
    assert "shows no GPU" in capsys.readouterr().err


def test_a_part_that_fails_costs_no_other_and_later_parts_are_added(tmp_path, monkeypatch, capsys):
    """zeus raises, both lengths of the A/A control stay; a second run adds a third beside them."""
    _, meter, busy = board()
    load = SimpleNamespace(busy=busy, device=torch.device("cuda", 0), host_over_device_time=float)
    monkeypatch.setattr(__main__, "_zeus", lambda *_: 1 / 0)
    for parts, failed in ((["same5", "zeus", "same2"], ["zeus"]), (["same10"], [])):
        notes = __main__.Notes(tmp_path)
        notes.add(idle_w_without_context=70.0, **__main__._basics(meter, load))
        assert __main__.ask(parts, meter, load, 2, notes) == failed
    assert "zeus failed: ZeroDivisionError" in capsys.readouterr().err
    told = json.loads((tmp_path / "energy.json").read_text())
    assert [row["window_s"] for row in told["same_work"]] == [2.0, 5.0, 10.0]
    assert "The same work twice" in (tmp_path / "energy.md").read_text()


def test_answers_of_another_board_are_not_mixed(tmp_path):
    """The folder holds another driver's answers: refused, and nothing is overwritten."""
    _, meter, busy = board()
    load = SimpleNamespace(busy=busy, host_over_device_time=float)
    basics = __main__._basics(meter, load)
    __main__.Notes(tmp_path).add(idle_w_without_context=70.0, **basics)
    before = (tmp_path / "energy.json").read_bytes()
    other = {**basics, "facts": {**basics["facts"], "driver": "600.0"}}
    with pytest.raises(LookupError, match="driver"):
        __main__.Notes(tmp_path).add(idle_w_without_context=70.0, **other)
    assert (tmp_path / "energy.json").read_bytes() == before


@pytest.mark.gpu
def test_a_gpus_counter_agrees_with_its_power_on_a_steady_load():
    """|counter / integral - 1| at most 5 % over 10 s."""
    from bench.selftest.energy.load import MatrixLoad

    device = torch.device("cuda")
    load = MatrixLoad(device)
    with EnergyMeter(device) as meter:
        reading = meter.measure(lambda: load.busy(0.02), 10.0)
    assert reading.device == "cuda"
    assert reading.integral_ratio == pytest.approx(1, abs=0.05)
    assert reading.valid, reading.reason


@pytest.mark.gpu
def test_a_gpu_draws_the_same_energy_for_the_same_work():
    """The A/A energy ratio lies within 2 % at 10 s."""
    from bench.selftest.energy.load import MatrixLoad

    load = MatrixLoad(torch.device("cuda"))
    with EnergyMeter(torch.device("cuda")) as meter:
        (answer,) = questions.same_work(meter, load.busy, 3, (10.0,))
    assert answer["ratio"] == pytest.approx(1, abs=0.02)


@pytest.mark.gpu
def test_a_gpus_idle_board_draws_less_than_the_loaded_one():
    """Net energy of a load is positive and less than gross."""
    from bench.selftest.energy.load import MatrixLoad

    load = MatrixLoad(torch.device("cuda"))
    with EnergyMeter(torch.device("cuda")) as meter:
        reading = meter.measure(lambda: load.busy(0.02), 5.0)
    assert 0 < reading.net_j < reading.gross_j
    assert reading.idle_w < reading.mean_power_w <= (reading.power_limit_w or 1e9) * 1.05


@pytest.mark.gpu
def test_bfloat16_products_reach_the_h200s_speed():
    """700 to 900 TFLOP/s on an H200: a timer that does not wait shows more."""
    from bench.meters.time.peak import measure_peak_flops

    if "H200" not in torch.cuda.get_device_name():
        pytest.skip("needs an NVIDIA GPU of type H200")
    assert 700e12 < measure_peak_flops(torch.bfloat16, device="cuda") < 900e12
