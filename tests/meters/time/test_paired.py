"""Paired timing on simulated clocks: known ratios, balanced work, refusals, restored state."""

from __future__ import annotations

import cProfile
import gc
import math
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from bench.meters.conditions import pinned_threads
from bench.meters.flops.counter import count
from bench.meters.guard import MeterStateError
from bench.meters.time.clocks import DeviceState
from bench.meters.time.paired import compare, run_control
from bench.meters.time.replicated import PairedWork, replicate

BATCHES = [["a", "b"], ["c", "d"], ["e", "f"]]  # three batches of two samples


def model(clock, seconds, log=None, name=""):
    """A model that takes `seconds(now)` for a batch and logs its batches."""

    def run(batch):
        clock.advance(seconds(clock.now) if callable(seconds) else seconds)
        if log is not None:
            log.append((name, tuple(batch)))

    return run


def time_models(clock, candidate, baseline, **settings):
    chosen = {"rounds": 10, "warmup_s": 0.0, "block_ms": 50.0, "stopwatch": clock, **settings}
    return compare(candidate, baseline, BATCHES, **chosen)


def test_the_ratio_is_baseline_time_over_candidate_time(clock):
    """A candidate of 10 ms beside a baseline of 20 ms per batch is 2 times as fast."""
    timing = time_models(clock, model(clock, 0.010), model(clock, 0.020))
    assert timing.ratio == pytest.approx(2.0)
    assert timing.candidate_s == pytest.approx(0.030)
    assert timing.baseline_s == pytest.approx(0.060)
    assert timing.candidate_samples_per_s == pytest.approx(6 / 0.030)
    assert timing.baseline_samples_per_s == pytest.approx(6 / 0.060)
    assert timing.candidate_iqr_s == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("ratio", [1.05, 1.0])
def test_drift_and_noise_leave_a_known_ratio(clock, ratio):
    """A machine that slows by 1 % a second, with 2 % noise, moves the ratio by less than 1 %."""
    noise = np.random.default_rng(0)

    def slow(seconds):
        return lambda now: seconds * (1 + 0.01 * now) * noise.lognormal(0, 0.02)

    timing = time_models(
        clock, model(clock, slow(0.010)), model(clock, slow(0.010 * ratio)), rounds=20
    )
    assert abs(timing.ratio / ratio - 1) < 0.01
    assert timing.ci_low < ratio < timing.ci_high


def test_every_sample_is_timed_equally_often(clock):
    """Whatever the number of passes, each model runs every sample the same number of times."""
    log = []
    time_models(clock, model(clock, 0.003, log, "A"), model(clock, 0.007, log, "B"), rounds=6)
    for name in "AB":
        counts = {tuple(b): sum(entry == (name, tuple(b)) for entry in log) for b in BATCHES}
        assert len(set(counts.values())) == 1
        assert min(counts.values()) > 0


def test_blocks_are_whole_passes_and_long_enough(clock):
    """A pass of 9 ms repeats 6 times to fill 50 ms, one of 60 ms once."""
    timing = time_models(clock, model(clock, 0.003), model(clock, 0.020))
    assert timing.num_passes == (6, 1)
    assert min(clock.blocks[-40:]) >= 0.050


def test_rounds_alternate_between_abba_and_baab(clock):
    """Over two rounds each model is first, last and in between equally often."""
    log = []
    timing = time_models(
        clock, model(clock, 0.060, log, "A"), model(clock, 0.060, log, "B"), rounds=2, block_ms=1
    )
    assert [each.order for each in timing.rounds] == ["ABBA", "BAAB"]
    names = [name for name, _ in log[-24:]][::3]
    assert "".join(names) == "ABBABAAB"


def test_an_outlier_is_kept_and_counted(clock):
    """One slow round of ten does not move the median, and is reported."""
    calls = iter(range(10_000))

    def hiccup(now):
        return 0.100 if 60 <= next(calls) < 63 else 0.010 + 1e-5 * math.sin(now)

    timing = time_models(clock, model(clock, hiccup), model(clock, 0.010))
    assert timing.num_outliers == 1
    assert len(timing.valid_rounds) == 10
    assert timing.ratio == pytest.approx(1.0, abs=0.01)


def test_rounds_with_slowed_clocks_are_repeated(clock):
    """Every third reading shows a thermal slowdown: those rounds stay in the list, invalid."""
    readings = iter(range(100))

    def read():
        hot = next(readings) % 3 == 0
        return DeviceState(events=("HwThermalSlowdown",) if hot else ("SwPowerCap",))

    timing = time_models(clock, model(clock, 0.010), model(clock, 0.010), read_state=read)
    assert len(timing.valid_rounds) == 10
    assert len(timing.rounds) == 15
    assert timing.reason is None
    assert timing.rounds[0].reason == "the GPU slowed its clocks (HwThermalSlowdown)"


def test_a_gpu_that_is_always_slowed_has_no_ratio(clock):
    """After twice the rounds it stops: no number, and the reason."""
    hot = DeviceState(events=("HwSlowdown",))
    timing = time_models(clock, model(clock, 0.01), model(clock, 0.01), read_state=lambda: hot)
    assert (timing.ratio, timing.ci_low, len(timing.rounds)) == (None, None, 20)
    assert "HwSlowdown" in timing.reason


def test_fewer_than_six_rounds_have_a_ratio_without_interval(clock):
    """An interval of five rounds cannot cover 95 %."""
    timing = time_models(clock, model(clock, 0.01), model(clock, 0.02), rounds=5)
    assert timing.ratio == pytest.approx(2.0)
    assert (timing.ci_low, timing.ci_high) == (None, None)
    assert "too few" in timing.reason


def test_device_time_is_recorded_beside_host_time(clock):
    """A device that is busy for a quarter of the host's time is launch-bound; a CPU has none."""
    assert time_models(clock, model(clock, 0.01), model(clock, 0.01)).candidate_device_share is None
    clock.device_share = 0.25
    timing = time_models(clock, model(clock, 0.01), model(clock, 0.02))
    assert timing.candidate_device_share == pytest.approx(0.25)
    assert timing.rounds[0].baseline_device_s == pytest.approx(0.25 * 0.060)


def test_graphs_compiled_inside_the_rounds_are_a_reason_against_the_timing(clock, monkeypatch):
    """The time of a model that still compiles is that of the compiler."""
    stats = {"unique_graphs": 0}
    fake = SimpleNamespace(counters={"stats": stats})
    monkeypatch.setitem(sys.modules, "torch._dynamo.utils", fake)

    def compiling(batch):
        clock.advance(0.010)
        stats["unique_graphs"] += 1

    timing = time_models(clock, compiling, model(clock, 0.010))
    assert timing.num_recompiles > 0
    assert "compiled inside" in timing.reason


def test_the_control_gives_the_noise_floor(clock):
    """It is the largest deviation from 1 inside the A/A interval."""
    noise = np.random.default_rng(1)
    same = model(clock, lambda now: 0.010 * noise.lognormal(0, 0.02))
    timing = run_control(same, BATCHES, rounds=20, warmup_s=0.0, stopwatch=clock)
    assert timing.noise_floor == max(abs(timing.ci_low - 1), abs(timing.ci_high - 1))
    assert 0 < timing.noise_floor < 0.03


def test_the_control_times_two_objects(clock):
    """A copy lies elsewhere in memory, which is part of the noise."""
    seen = set()

    class Model:
        def __init__(self):
            self.weight = torch.ones(8)

        def __call__(self, batch):
            seen.add(self.weight.data_ptr())
            clock.advance(0.010)

    run_control(Model(), BATCHES, rounds=6, warmup_s=0.0, stopwatch=clock)
    assert len(seen) == 2


def test_a_model_that_cannot_be_copied_is_timed_against_itself(clock):
    """A lock cannot be copied."""

    class Model:
        lock = None

        def __init__(self):
            self.lock = threading.Lock()

        def __call__(self, batch):
            clock.advance(0.010)

    assert run_control(Model(), BATCHES, rounds=6, warmup_s=0.0, stopwatch=clock).ratio == 1.0


def test_the_control_finds_no_difference_between_a_model_and_itself(clock):
    """In 20 simulated sessions no A/A interval lies more than 1 % away from 1.

    That is the plausibility gate; one 95 % interval in twenty excludes 1 itself, as it should.
    """
    noise = np.random.default_rng(2)
    same = model(clock, lambda now: 0.010 * noise.lognormal(0, 0.02))
    sessions = [
        run_control(same, BATCHES, rounds=20, warmup_s=0.0, stopwatch=clock) for _ in range(20)
    ]
    assert not [each for each in sessions if each.ci_low > 1.01 or each.ci_high < 0.99]
    assert sum(not each.ci_low <= 1 <= each.ci_high for each in sessions) <= 4


def test_it_refuses_under_a_flop_counter(clock):
    """A dispatch mode runs Python for every operation, which would be timed as well."""
    with FlopCounterMode(display=False), pytest.raises(MeterStateError, match="FlopCounterMode"):
        time_models(clock, model(clock, 0.01), model(clock, 0.01))


def test_it_refuses_while_another_thread_counts_flops(clock):
    """The count would compete with the timed work for the interpreter."""
    counting, done = threading.Event(), threading.Event()

    def work():
        counting.set()
        assert done.wait(60)

    with ThreadPoolExecutor() as pool:
        count_done = pool.submit(count, work)
        assert counting.wait(60)
        with pytest.raises(MeterStateError, match="another thread"):
            time_models(clock, model(clock, 0.01), model(clock, 0.01))
        done.set()
        count_done.result(timeout=60)
    assert time_models(clock, model(clock, 0.01), model(clock, 0.01)).ratio == pytest.approx(1.0)


def test_it_refuses_under_profilers(clock, monkeypatch):
    """torch's profiler and Python's own slow down the profiled code."""
    monkeypatch.setenv("KINETO_LOG_LEVEL", "99")
    with torch.profiler.profile(), pytest.raises(MeterStateError, match="torch profiler"):
        time_models(clock, model(clock, 0.01), model(clock, 0.01))
    with cProfile.Profile(), pytest.raises(MeterStateError, match="Python profiler"):
        time_models(clock, model(clock, 0.01), model(clock, 0.01))


@pytest.mark.parametrize("settings", [{"rounds": 0}, {}])
def test_no_round_or_no_batch_is_an_error(clock, settings):
    """A comparison needs one of each."""
    batches = BATCHES if settings else []
    with pytest.raises(ValueError, match="at least one"):
        compare(model(clock, 1), model(clock, 1), batches, stopwatch=clock, **settings)


def test_models_run_in_evaluation_and_inference_mode_and_are_restored(clock):
    """Also a module that was partly frozen in evaluation mode, and also after an error."""
    seen = []

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.frozen = torch.nn.Dropout()

        def forward(self, batch):
            seen.append((self.training, self.frozen.training, torch.is_inference_mode_enabled()))
            clock.advance(0.01)
            if len(seen) == 100:
                raise RuntimeError("broken")

    net = Net().train()
    net.frozen.eval()
    time_models(clock, net, model(clock, 0.01), rounds=1)
    assert set(seen) == {(False, False, True)}
    assert (net.training, net.frozen.training) == (True, False)
    with pytest.raises(RuntimeError, match="broken"):
        time_models(clock, net, model(clock, 0.01), rounds=100)
    assert (net.training, torch.is_inference_mode_enabled(), gc.isenabled()) == (True, False, True)


def test_garbage_is_not_collected_inside_the_timed_blocks(clock):
    """Collection is off inside and on again afterwards."""
    states = []

    def run(batch):
        states.append(gc.isenabled())
        clock.advance(0.01)

    time_models(clock, run, run, rounds=2)
    assert states[-1] is False
    assert gc.isenabled()


def test_threads_that_a_model_changes_void_the_rounds() -> None:
    """One thread was in force before the warm-up; no round counts, and the reason names both."""

    def rude(batch: object) -> None:
        torch.set_num_threads(3)

    with pinned_threads(1):
        timing = compare(rude, lambda batch: None, [[1]], rounds=2, warmup_s=0, block_ms=0.1)
    assert timing.ratio is None
    assert "a block changed what the dense model runs under too" in str(timing.reason)
    assert "torch.get_num_threads(): 1 before, 3 now" in str(timing.reason)


def test_functions_that_a_model_replaces_void_its_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The patch goes into a function of torch, which dense calls as well."""

    def patching(batch: object) -> None:
        monkeypatch.setattr(torch.nn.functional, "gelu", len)

    work = PairedWork(patching, lambda batch: None, {1: [[1]]}, 2, 0, 0.1, num_threads=1)
    timing = replicate(work, None)[1]
    assert timing.interval is None
    assert "functional.gelu was replaced" in str(timing.reason)
