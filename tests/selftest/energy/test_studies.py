"""The studies of a real board, run on simulated ones whose results are known."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from bench.meters.energy import EnergyMeter
from bench.selftest.energy import __main__, studies
from bench.selftest.energy.results import ResultFile
from bench.selftest.energy.tables import markdown
from bench.selftest.energy.traces import read_trace, record_trace, write_trace
from tests.fakes.nvml import FakeGpu
from tests.fakes.replay import ReplayedGpu

RECORDED = Path(__file__).parents[3] / "results" / "published"


def board(**settings):
    gpu = FakeGpu(**settings)
    return gpu, EnergyMeter("fake", gpu.rig()), lambda seconds: gpu.work(seconds)()


def test_update_periods_are_found_idle_and_loaded():
    """A counter with an update every 50 ms, in steps of at least 75 W x 50 ms."""
    gpu, _, busy = board(update_s=0.05)
    idle, loaded = studies.periods(gpu.rig(), busy)
    assert (idle["load"], loaded["load"]) == ("idle", "loaded")
    assert idle["counter_period_s"] == pytest.approx(0.05, rel=0.02)
    assert loaded["counter_period_s"] == pytest.approx(0.05, rel=0.02)
    assert idle["smallest_step_mj"] == pytest.approx(3750, abs=1)
    assert idle["power_period_s"] is None  # constant power never changes
    assert loaded["mean_power_w"] > 400


def test_square_waves_distinguish_a_full_time_sensor_from_a_part_time_one():
    """Periods of 50 and 100 ms at eight phases: the counter is duty x power, or far from it."""
    waves_s = (0.05, 0.1)
    _, meter, busy = board()
    whole = studies.square_waves(meter, busy, 2.5, waves_s)
    assert [row["wave_s"] for row in whole] == [0.05] * 8 + [0.1] * 8
    assert all(abs(row["counter_over_expected"] - 1) < 0.05 for row in whole)
    _, meter, busy = board(part_s=0.025)
    part = studies.square_waves(meter, busy, 2.5, (0.1,))
    ratios = [row["counter_over_expected"] for row in part]
    assert max(ratios) - min(ratios) > 0.3


def test_the_ratio_of_the_same_work_is_one():
    """The A/A control by window length; a window that is too short is refused with its reason."""
    _, meter, busy = board()
    short, long = studies.same_work(meter, busy, 3, (1.0, 2.5))
    assert short["refused"].startswith("WindowTooShort")
    assert long["ratio"] == pytest.approx(1, rel=0.005)
    assert long["low"] <= 1 <= long["high"]


def test_every_part_is_run_and_written(tmp_path):
    """The whole program except for CUDA: results as JSON and tables, traces that can be read."""
    gpu, meter, busy = board(noise_w=2.0)
    load = SimpleNamespace(
        device=torch.device("cuda", 0),
        busy=busy,
        wave=lambda period_s: (busy(period_s / 2), gpu.clock.sleep(period_s / 2)),
        host_over_device_time=lambda: 1.02,
    )
    parts = ["periods", "waves", "zeus", "traces"]
    file = ResultFile(tmp_path)
    file.add(idle_w_without_context=70.0, **__main__._basics(meter, load))
    assert __main__.run_parts(parts, meter, load, 2, file) == []
    results = json.loads((tmp_path / "energy.json").read_text())
    text = (tmp_path / "energy.md").read_text()
    assert "### Updates" in text
    assert "### Square waves" in text
    assert results["steady_load"]["counter_over_integral"] == pytest.approx(1, abs=0.02)
    assert results["facts"]["device"] == "fake"
    assert read_trace(tmp_path / "traces", "wave").gross_j > 0


def test_another_monitor_measures_the_same_passes():
    """A monitor that reads 2 % less over as many passes: 1.02."""
    gpu, meter, _ = board()
    begun = []

    class Zeus:
        def begin_window(self, name, sync_execution):
            begun.append(gpu.clock.now)

        def end_window(self, name, sync_execution):
            return SimpleNamespace(gpu_energy={0: gpu.true_j(begun[0], gpu.clock.now) / 1.02})

    result = studies.against_zeus(meter, gpu.work(0.02), 2.5, Zeus())
    assert result["ratio"] == pytest.approx(1.02, rel=0.003)


def test_processes_may_be_hidden():
    """Containers may list none, or the host's numbers."""
    assert studies.processes(FakeGpu(pids=[7]).rig()) == {
        "visible": True,
        "num": 1,
        "own_is_among_them": False,
    }


def test_results_become_tables():
    """One row per period with the extremes over the phases; studies not run have no section."""
    _, meter, busy = board()
    results = {
        "facts": meter.facts(),
        "idle_w_without_context": 70.0,
        "idle_w_with_context": 75.0,
        "processes": {"visible": False},
        "steady_load": {
            "mean_power_w": 500.0,
            "counter_over_integral": 1.01,
            "host_over_device_time": None,
        },
        "square_waves": studies.square_waves(meter, busy, 2.5, (0.05,)),
    }
    text = markdown(results)
    assert "device=fake" in text
    assert "### Square waves" in text
    assert "| 50 " in text
    assert "### Updates" not in text
    assert json.dumps(results, allow_nan=False)


def test_a_replayed_recording_has_the_same_energy(tmp_path):
    """A recording of a simulated board, and those of real boards in results/published.

    Replayed through the meter they give the same joules.
    """
    gpu, meter, _ = board(noise_w=3.0, phase_s=0.03)
    write_trace(tmp_path, "steady", record_trace(meter, gpu.work(0.013), 2.5))
    for path in (tmp_path / "steady.csv", *sorted(RECORDED.glob("energy-*/traces/*.csv"))):
        trace = read_trace(path.parent, path.stem)
        replay = ReplayedGpu(trace)
        seconds = 20 * trace.calibration.update_period_s
        reading = replay.meter().measure(replay.rest_of_work(), seconds, [trace.pause_s])
        assert reading.gross_j == pytest.approx(trace.gross_j, rel=0.01), path


def test_a_trace_is_read_back_as_written(tmp_path):
    """Samples to the microsecond and milliwatt, times and calibration exactly."""
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


def test_without_a_gpu_the_program_exits_with_2(monkeypatch, capsys):
    """It prints the reason and writes no file."""
    monkeypatch.setattr(__main__, "visible_gpus", lambda: ())
    assert __main__.main([]) == 2
    assert "shows no GPU" in capsys.readouterr().err


def test_a_failed_part_stops_no_other_and_later_parts_are_added(tmp_path, monkeypatch, capsys):
    """zeus raises, both lengths of the A/A control are kept; a second run adds a third."""
    _, meter, busy = board()
    load = SimpleNamespace(busy=busy, device=torch.device("cuda", 0), host_over_device_time=float)
    monkeypatch.setattr(__main__, "_zeus", lambda *_: 1 / 0)
    for parts, failed in ((["same5", "zeus", "same2"], ["zeus"]), (["same10"], [])):
        file = ResultFile(tmp_path)
        file.add(idle_w_without_context=70.0, **__main__._basics(meter, load))
        assert __main__.run_parts(parts, meter, load, 2, file) == failed
    assert "zeus failed: ZeroDivisionError" in capsys.readouterr().err
    written = json.loads((tmp_path / "energy.json").read_text())
    assert [row["window_s"] for row in written["same_work"]] == [2.0, 5.0, 10.0]
    assert "The same work twice" in (tmp_path / "energy.md").read_text()


def test_results_of_another_board_are_not_mixed(tmp_path):
    """The folder holds another driver's results: an error, and nothing is overwritten."""
    _, meter, busy = board()
    load = SimpleNamespace(busy=busy, host_over_device_time=float)
    basics = __main__._basics(meter, load)
    ResultFile(tmp_path).add(idle_w_without_context=70.0, **basics)
    before = (tmp_path / "energy.json").read_bytes()
    other = {**basics, "facts": {**basics["facts"], "driver": "600.0"}}
    with pytest.raises(LookupError, match="driver"):
        ResultFile(tmp_path).add(idle_w_without_context=70.0, **other)
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
        (result,) = studies.same_work(meter, load.busy, 3, (10.0,))
    assert result["ratio"] == pytest.approx(1, abs=0.02)


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
    """700 to 900 TFLOP/s on an H200: a timer without synchronisation would show more."""
    from bench.meters.time.peak import measure_peak_flops

    if "H200" not in torch.cuda.get_device_name():
        pytest.skip("needs an NVIDIA GPU of type H200")
    assert 700e12 < measure_peak_flops(torch.bfloat16, device="cuda") < 900e12
