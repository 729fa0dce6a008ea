"""The time meter on simulated clocks: known ratios, equal issue, refusals, restored state."""

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

BATCHES = [["a", "b"], ["c", "d"], ["e", "f"]]  # three batches of two samples


def model(clock, seconds, log=None, name=""):
    """A model that takes `seconds(now)` for a batch and notes what it was given."""

    def run(batch):
        clock.advance(seconds(clock.now) if callable(seconds) else seconds)
        if log is not None:
            log.append((name, tuple(batch)))

    return run


def timed(clock, candidate, baseline, **settings):
    given = {"rounds": 10, "warmup_s": 0.0, "block_ms": 50.0, "stopwatch": clock, **settings}
    return compare(candidate, baseline, BATCHES, **given)


def test_the_ratio_is_baseline_time_over_candidate_time(clock):
    """A candidate of 10 ms beside a baseline of 20 ms per batch is 2 times as fast."""
    timing = timed(clock, model(clock, 0.010), model(clock, 0.020))
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

    timing = timed(clock, model(clock, slow(0.010)), model(clock, slow(0.010 * ratio)), rounds=20)
    assert abs(timing.ratio / ratio - 1) < 0.01
    assert timing.ci_low < ratio < timing.ci_high


def test_every_sample_is_issued_equally_often(clock):
    """Whatever the number of passes, each model sees every sample the same number of times."""
    log = []
    timed(clock, model(clock, 0.003, log, "A"), model(clock, 0.007, log, "B"), rounds=6)
    for name in "AB":
        counts = {tuple(b): sum(entry == (name, tuple(b)) for entry in log) for b in BATCHES}
        assert len(set(counts.values())) == 1
        assert min(counts.values()) > 0


def test_blocks_are_whole_passes_and_long_enough(clock):
    """A pass of 9 ms repeats 6 times to fill 50 ms, one of 60 ms once."""
    timing = timed(clock, model(clock, 0.003), model(clock, 0.020))
    assert timing.num_passes == (6, 1)
    assert min(clock.blocks[-40:]) >= 0.050


def test_rounds_alternate_between_abba_and_baab(clock):
    """Over two rounds each model stands first, last and inside equally often."""
    log = []
    timing = timed(
        clock, model(clock, 0.060, log, "A"), model(clock, 0.060, log, "B"), rounds=2, block_ms=1
    )
    assert [each.order for each in timing.rounds] == ["ABBA", "BAAB"]
    names = [name for name, _ in log[-24:]][::3]
    assert "".join(names) == "ABBABAAB"


def test_an_outlier_is_kept_and_counted(clock):
    """One round of ten that takes twice as long leaves the median, and is reported."""
    calls = iter(range(10_000))

    def hiccup(now):
        return 0.100 if 60 <= next(calls) < 63 else 0.010 + 1e-5 * math.sin(now)

    timing = timed(clock, model(clock, hiccup), model(clock, 0.010))
    assert timing.num_outliers == 1
    assert len(timing.valid_rounds) == 10
    assert timing.ratio == pytest.approx(1.0, abs=0.01)


def test_rounds_with_slowed_clocks_are_repeated(clock):
    """Every third look finds a thermal slowdown: those rounds stay in the list and do not count."""
    looks = iter(range(100))

    def read():
        hot = next(looks) % 3 == 0
        return DeviceState(events=("HwThermalSlowdown",) if hot else ("SwPowerCap",))

    timing = timed(clock, model(clock, 0.010), model(clock, 0.010), read_state=read)
    assert len(timing.valid_rounds) == 10
    assert len(timing.rounds) == 15
    assert timing.reason is None
    assert timing.rounds[0].reason == "the GPU slowed its clocks (HwThermalSlowdown)"


def test_a_gpu_that_is_always_slowed_has_no_ratio(clock):
    """After twice the rounds it gives up: no number, and the reason."""
    hot = DeviceState(events=("HwSlowdown",))
    timing = timed(clock, model(clock, 0.01), model(clock, 0.01), read_state=lambda: hot)
    assert (timing.ratio, timing.ci_low, len(timing.rounds)) == (None, None, 20)
    assert "HwSlowdown" in timing.reason


def test_fewer_than_six_rounds_have_a_ratio_without_interval(clock):
    """Five rounds cannot hold 95 %."""
    timing = timed(clock, model(clock, 0.01), model(clock, 0.02), rounds=5)
    assert timing.ratio == pytest.approx(2.0)
    assert (timing.ci_low, timing.ci_high) == (None, None)
    assert "too few" in timing.reason


def test_device_time_stands_beside_host_time(clock):
    """A device that is busy for a quarter of the host's time is launch-bound; a CPU has none."""
    assert timed(clock, model(clock, 0.01), model(clock, 0.01)).candidate_device_share is None
    clock.device_share = 0.25
    timing = timed(clock, model(clock, 0.01), model(clock, 0.02))
    assert timing.candidate_device_share == pytest.approx(0.25)
    assert timing.rounds[0].baseline_device_s == pytest.approx(0.25 * 0.060)


def test_graphs_compiled_inside_the_rounds_make_the_timing_doubtful(clock, monkeypatch):
    """A model that still compiles while timed is not measured but compiled."""
    stats = {"unique_graphs": 0}
    fake = SimpleNamespace(counters={"stats": stats})
    monkeypatch.setitem(sys.modules, "torch._dynamo.utils", fake)

    def compiling(batch):
        clock.advance(0.010)
        stats["unique_graphs"] += 1

    timing = timed(clock, compiling, model(clock, 0.010))
    assert timing.num_recompiles > 0
    assert "compiled inside" in timing.reason


def test_the_control_gives_the_noise_floor(clock):
    """It is the largest deviation from 1 that the A/A interval holds."""
    noise = np.random.default_rng(1)
    same = model(clock, lambda now: 0.010 * noise.lognormal(0, 0.02))
    timing = run_control(same, BATCHES, rounds=20, warmup_s=0.0, stopwatch=clock)
    assert timing.noise_floor == max(abs(timing.ci_low - 1), abs(timing.ci_high - 1))
    assert 0 < timing.noise_floor < 0.03


def test_the_control_times_two_objects(clock):
    """A copy lies elsewhere in memory, and that belongs to the noise."""
    seen = set()

    class Model:
        def __init__(self):
            self.weight = torch.ones(8)

        def __call__(self, batch):
            seen.add(self.weight.data_ptr())
            clock.advance(0.010)

    run_control(Model(), BATCHES, rounds=6, warmup_s=0.0, stopwatch=clock)
    assert len(seen) == 2


def test_what_cannot_be_copied_is_timed_against_itself(clock):
    """A lock has no copy."""

    class Model:
        lock = None

        def __init__(self):
            self.lock = threading.Lock()

        def __call__(self, batch):
            clock.advance(0.010)

    assert run_control(Model(), BATCHES, rounds=6, warmup_s=0.0, stopwatch=clock).ratio == 1.0


def test_a_model_is_never_called_different_from_itself(clock):
    """In 20 simulated sessions no A/A interval lies more than 1 % away from 1.

    That is the gate's rule; one 95 % interval in twenty excludes 1 itself, as it should.
    """
    noise = np.random.default_rng(2)
    same = model(clock, lambda now: 0.010 * noise.lognormal(0, 0.02))
    sessions = [
        run_control(same, BATCHES, rounds=20, warmup_s=0.0, stopwatch=clock) for _ in range(20)
    ]
    assert not [each for each in sessions if each.ci_low > 1.01 or each.ci_high < 0.99]
    assert sum(not each.ci_low <= 1 <= each.ci_high for each in sessions) <= 4


def test_it_refuses_under_a_flop_counter(clock):
    """A dispatch mode runs Python for every operation: nothing timed under it is true."""
    with FlopCounterMode(display=False), pytest.raises(MeterStateError, match="FlopCounterMode"):
        timed(clock, model(clock, 0.01), model(clock, 0.01))


def test_it_refuses_while_another_thread_counts_flops(clock):
    """The count would run beside the timed work, and see work that is not its own."""
    counting, done = threading.Event(), threading.Event()

    def work():
        counting.set()
        assert done.wait(60)

    with ThreadPoolExecutor() as pool:
        count_done = pool.submit(count, work)
        assert counting.wait(60)
        with pytest.raises(MeterStateError, match="another thread"):
            timed(clock, model(clock, 0.01), model(clock, 0.01))
        done.set()
        count_done.result(timeout=60)
    assert timed(clock, model(clock, 0.01), model(clock, 0.01)).ratio == pytest.approx(1.0)


def test_it_refuses_under_profilers(clock, monkeypatch):
    """torch's profiler and Python's own slow down what they watch."""
    monkeypatch.setenv("KINETO_LOG_LEVEL", "99")
    with torch.profiler.profile(), pytest.raises(MeterStateError, match="torch profiler"):
        timed(clock, model(clock, 0.01), model(clock, 0.01))
    with cProfile.Profile(), pytest.raises(MeterStateError, match="Python profiler"):
        timed(clock, model(clock, 0.01), model(clock, 0.01))


@pytest.mark.parametrize("settings", [{"rounds": 0}, {}])
def test_nothing_to_time_is_an_error(clock, settings):
    """No round or no batch."""
    batches = BATCHES if settings else []
    with pytest.raises(ValueError, match="at least one"):
        compare(model(clock, 1), model(clock, 1), batches, stopwatch=clock, **settings)


def test_models_run_in_evaluation_and_inference_mode_and_return_as_they_were(clock):
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
    timed(clock, net, model(clock, 0.01), rounds=1)
    assert set(seen) == {(False, False, True)}
    assert (net.training, net.frozen.training) == (True, False)
    with pytest.raises(RuntimeError, match="broken"):
        timed(clock, net, model(clock, 0.01), rounds=100)
    assert (net.training, torch.is_inference_mode_enabled(), gc.isenabled()) == (True, False, True)


def test_garbage_collection_waits_outside_the_timed_blocks(clock):
    """It is off inside and back on afterwards."""
    states = []

    def run(batch):
        states.append(gc.isenabled())
        clock.advance(0.01)

    timed(clock, run, run, rounds=2)
    assert states[-1] is False
    assert gc.isenabled()


@pytest.mark.parametrize("num_threads", [1, 2])
def test_pinned_threads_are_in_force_and_restored(clock, num_threads):
    """The timed model sees the setting, the record holds it, and an error restores it too."""
    before = torch.get_num_threads()
    seen = []

    def run(batch):
        seen.append(torch.get_num_threads())
        clock.advance(0.01)

    with pinned_threads(num_threads) as threads:
        timing = timed(clock, run, run, rounds=1)
    assert set(seen) == {num_threads}
    assert (timing.num_threads, threads.num_threads) == (num_threads, num_threads)
    assert threads.cores
    assert torch.get_num_threads() == before
    with pytest.raises(RuntimeError, match="inside"), pinned_threads(num_threads):
        raise RuntimeError("inside")
    assert torch.get_num_threads() == before


def test_a_model_runs_on_at_least_one_thread():
    """Zero threads are refused before anything is set."""
    with pytest.raises(ValueError, match="at least one thread"), pinned_threads(0):
        pass
