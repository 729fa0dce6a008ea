"""Energy in a trial: per sample, beside the dense model's, or missing with the case's name."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from bench import ranks
from bench.config import MeasureConfig
from bench.measure.energy.inference import Passes, measure_energy, without_energy
from bench.measure.energy.training import TrainingEnergy
from bench.measure.inputs import Inputs
from bench.measure.subject import Subject
from bench.meters.energy import EnergyMeter, EnergyUnsupported
from bench.meters.energy.rapl import CpuEnergy, CpuReading
from bench.types import Batch
from tests.fakes.methods import method_of
from tests.fakes.nvml import FakeClock, FakeGpu

CPU = torch.device("cpu")


class Drawing(nn.Module):
    """A model whose pass over a batch takes simulated time at simulated power."""

    def __init__(self, gpu: FakeGpu, seconds: float) -> None:
        super().__init__()
        self.step = gpu.work(seconds)

    def forward(self, batch: Batch) -> None:
        self.step()


def measured(gpu: FakeGpu, device="cuda", open_counter=None, **settings):
    """The part of a model of 10 ms per batch of 4 beside a dense one of 20 ms."""
    batch = Batch(torch.zeros(4, 1), torch.zeros(4))
    return measure_energy(
        subject_on(gpu, **settings),
        Drawing(gpu, 0.02),
        Inputs({1: [batch], 4: [batch, batch]}),
        {"k": 1},
        open_meter=lambda where: EnergyMeter("fake", gpu.rig(device)),
        open_counter=open_counter or no_rapl,
    )


def subject_on(gpu: FakeGpu, **settings) -> Subject:
    """A model of 10 ms per batch."""
    return Subject(
        model=Drawing(gpu, 0.01),
        method=method_of(),
        task=None,  # type: ignore[arg-type]
        device=CPU,
        config=MeasureConfig(**{"energy_window_s": 2.0, **settings}),
        make_baseline=nn.Identity,
        is_dense=False,
    )


def no_rapl():
    raise EnergyUnsupported("no RAPL: a virtual machine")


class Packages:
    """One package whose file a test advances; the clock is simulated, a pass takes a second."""

    def __init__(self, root: Path) -> None:
        folder = root / "intel-rapl:0"
        folder.mkdir(parents=True)
        (folder / "name").write_text("package-0")
        (folder / "max_energy_range_uj").write_text("262143328850")
        self.root, self.file, self.clock = root, folder / "energy_uj", FakeClock()
        self.value_uj = self.idle_uj = self.gains_uj = 0
        self.gain(1_000_000)

    def gain(self, microjoules: int) -> None:
        self.value_uj += microjoules
        self.file.write_text(str(self.value_uj))

    def open(self) -> CpuEnergy:
        counter = CpuEnergy(self.root, self.clock)
        idle_w, measure = counter.measure_idle_w, counter.measure

        def measure_idle_w() -> float:
            if counter._idle_w is None:  # measured once, in the first window
                self.clock.call_at(self.clock.now + 0.5, lambda: self.gain(self.idle_uj))
            return idle_w()

        def measure_passes(step: Callable[[], None], seconds: float) -> CpuReading:
            def second() -> None:
                self.clock.sleep(1.0)
                self.gain(self.gains_uj)

            return measure(second, seconds)

        counter.measure_idle_w, counter.measure = measure_idle_w, measure_passes  # type: ignore
        return counter


def real(**settings) -> FakeGpu:
    """A simulated board whose driver does not identify it as one, and whose power scatters."""
    return FakeGpu(**{"driver": "580.1", "noise_w": 0.5, **settings})


def test_energy_per_sample_and_its_ratio_to_dense():
    """10 ms at 500 W per batch of 4: 1.25 J per sample, half of the dense model's."""
    metrics = measured(real()).metrics
    energy, ratio = metrics["infer/energy_j_per_sample"], metrics["infer/energy_ratio"]
    assert energy.shown == pytest.approx(1.25, rel=0.005)
    assert energy.low < 1.25 < energy.high
    assert ratio.shown == pytest.approx(2.0, rel=0.005)
    assert ratio.low <= ratio.value <= ratio.high
    assert ratio.high / ratio.low - 1 < energy.high / energy.low - 1  # one sensor for both


def test_net_energy_leaves_out_the_idle_board():
    """10 ms at 500 - 75 W per batch of 4: 1.0625 J."""
    metrics = measured(real()).metrics
    assert metrics["infer/energy_net_j_per_sample"].shown == pytest.approx(1.0625, rel=0.01)


def test_conditions_name_the_operating_point():
    """One entry per measured point, with its settings."""
    (entry,) = measured(real()).diagnostics["energy"]
    assert (entry["point"], entry["batch_size"]) == ({"k": 1}, 4)


def test_a_point_that_is_not_measured_has_a_reason():
    """Of measure=standard, which measures the default point only."""
    metrics = without_energy(subject_on(real(), profile="standard")).metrics
    reason = "measure=standard measures energy at the default operating point only"
    assert {key: metric.reason for key, metric in metrics.items()} == {
        "infer/energy_j_per_sample": reason,
        "infer/energy_ratio": reason,
    }


def test_a_fake_boards_readings_are_invalid_and_labelled():
    """The numbers stay for inspection; nothing shows them, and the diagnostics label them fake."""
    found = measured(FakeGpu(), device="fake")
    metrics = found.metrics
    assert metrics["infer/energy_j_per_sample"].value is not None
    assert metrics["infer/energy_j_per_sample"].shown is None
    assert metrics["infer/energy_ratio"].shown is None
    assert found.diagnostics["energy"][0]["device"] == "fake"


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"mig": 1}, "EnergyUnsupported: MIG"),
        ({"utilisation": 50}, "NotExclusive: 50 %"),
        ({"stuck_at_s": 1000.0}, "CounterStuck"),
        ({"resets_at_s": 1003.0}, "CounterReset"),
        ({"update_s": 0.2}, "WindowTooShort"),
    ],
)
def test_a_refusal_is_a_missing_metric_with_its_name(settings, name):
    """The trial goes on: null with the case, never 0."""
    found = measured(real(**settings))
    metrics = found.metrics
    for key in ("infer/energy_j_per_sample", "infer/energy_ratio"):
        assert metrics[key].value is None
        assert metrics[key].reason.startswith(name)
    assert found.diagnostics["energy"][0]["refused"].startswith(name)


def test_cpu_energy_is_a_column_of_its_own_with_its_own_reason():
    """Without RAPL it is missing, and the GPU's stands."""
    metrics = measured(real()).metrics
    assert metrics["infer/cpu_energy_j_per_sample"].value is None
    assert metrics["infer/cpu_energy_j_per_sample"].reason.startswith("EnergyUnsupported: no RAPL")


def test_a_modules_energy_never_stands_in_the_boards_column():
    """Under names of its own, so that no table compares it with a GPU's."""
    metrics = measured(real(scope="module")).metrics
    assert metrics["infer/energy_j_per_sample"].value is None
    assert "scope=module" in metrics["infer/energy_j_per_sample"].reason
    assert metrics["infer/module_energy_j_per_sample"].shown == pytest.approx(1.25, rel=0.005)


def test_a_pass_issues_every_batch_once_from_a_random_one_on():
    """Load and sensor share no phase; each sample still counts equally often."""
    seen = []
    passes = Passes(seen.append, [0, 1, 2])  # type: ignore[arg-type]
    for _ in range(20):
        passes()
    rounds = [tuple(seen[k : k + 3]) for k in range(0, 60, 3)]
    assert set(rounds) == {(0, 1, 2), (1, 2, 0), (2, 0, 1)}


def training(*gpus: FakeGpu, device="cuda"):
    """`train/...` of a second of work on every board, with a probe of a second left out."""
    boards = iter(gpus)
    energy = TrainingEnergy(
        [CPU] * len(gpus),
        open_meter=lambda where: EnergyMeter("fake", next(boards).rig(device)),
        open_counter=no_rapl,
    )
    with energy:
        for gpu in gpus:
            gpu.work(5.0)()
        energy.leaving_out(lambda: [gpu.work(1.0)() for gpu in gpus])()
    return energy.metrics()


def test_training_energy_leaves_out_the_probed_steps():
    """5 s at 500 W are 2500 J; a probe of 1 s in between is not training."""
    metric = training(real())["train/energy_j"]
    assert metric.shown == pytest.approx(2500, rel=0.01)
    assert metric.low < 2500 < metric.high


def test_a_training_whose_power_may_be_the_counters_own_sample_is_no_number():
    """Readings that never change between updates of the counter: kept, invalid, in no table."""
    metric = training(real(noise_w=0.0))["train/energy_j"]
    assert metric.value == pytest.approx(2500, rel=0.01)
    assert metric.shown is None
    assert metric.reason.startswith("Unchecked")


def test_training_power_and_net_energy_stand_beside_the_joules():
    """5 s at 500 W on boards that idle at 75 W: 2500 - 375 = 2125 J net on each of two."""
    metrics = training(real(), real())
    assert metrics["train/energy_net_j"].shown == pytest.approx(4250, rel=0.01)
    assert metrics["train/energy_mean_power_w"].shown == pytest.approx(1000, rel=0.01)
    assert metrics["train/energy_idle_power_w"].shown == pytest.approx(150, rel=0.01)


def test_several_boards_are_summed_only_if_all_are_valid():
    """Two boards 5000 J; one of them refused, none."""
    assert training(real(), real())["train/energy_j"].shown == pytest.approx(5000, rel=0.01)
    metric = training(real(), real(mig=1))["train/energy_j"]
    assert metric.value is None
    assert metric.reason.startswith("EnergyUnsupported: MIG")


def test_boards_of_one_process_share_the_time_of_the_training():
    """Waiting for one board's counter, before and after, is no part of another one's window."""
    clocks = [real(), real()]
    clocks[1].clock = clocks[0].clock  # two boards on one machine
    boards = iter(clocks)
    energy = TrainingEnergy(
        [CPU, CPU], lambda where: EnergyMeter("fake", next(boards).rig("cuda")), no_rapl
    )
    with energy:
        for gpu in clocks:
            gpu.set_power(500.0)
        clocks[0].clock.sleep(5.0)
        for gpu in clocks:
            gpu.set_power(75.0)
    assert [each.window_s for each in energy._readings] == pytest.approx([5.0, 5.0], abs=0.02)
    assert energy.metrics()["train/energy_j"].shown == pytest.approx(5000, rel=0.005)


def test_processes_that_train_together_read_a_board_each(monkeypatch):
    """Each has the only context on its board: 2500 J here and as much in the other process. If
    the other's is refused there is no sum."""
    monkeypatch.setattr(ranks, "all_gather", lambda mine: [mine, mine])
    pids = [os.getpid()]
    assert training(real(pids=pids))["train/energy_j"].shown == pytest.approx(5000, rel=0.01)
    monkeypatch.setattr(ranks, "all_gather", lambda mine: [mine, ([], "NotExclusive: 1 other")])
    metric = training(real(pids=pids))["train/energy_j"]
    assert (metric.value, metric.reason) == (None, "NotExclusive: 1 other")


def test_a_counter_that_fails_during_training_ends_in_a_reason():
    """Training is undisturbed, its energy missing."""
    metric = training(real(stuck_at_s=1005.0))["train/energy_j"]
    assert metric.value is None
    assert metric.reason.startswith("CounterStuck")


def test_a_cpu_counter_that_vanishes_ends_in_a_reason(tmp_path):
    """It can be read when the training begins and not when it ends: nothing is raised."""
    packages = Packages(tmp_path)
    with TrainingEnergy([CPU], open_counter=packages.open) as energy:
        packages.file.unlink()
    metric = energy.metrics()["train/cpu_energy_j"]
    assert metric.value is None
    assert metric.reason.startswith("EnergyUnsupported: RAPL")


@pytest.mark.parametrize(("gained_uj", "reason"), [(0, "CounterStuck"), (-500, "CounterReset")])
def test_packages_without_a_gain_have_no_energy(tmp_path, gained_uj, reason):
    """A zone that never moved or stepped back: null with its name, at training and inference."""
    packages = Packages(tmp_path)
    with TrainingEnergy([CPU], open_counter=packages.open) as energy:
        packages.gain(gained_uj)
    gpu = real()
    packages.gains_uj = gained_uj
    inferred = measured(gpu, open_counter=packages.open).metrics
    for metric in (
        energy.metrics()["train/cpu_energy_j"],
        inferred["infer/cpu_energy_j_per_sample"],
    ):
        assert (metric.value, metric.valid) == (None, False)
        assert metric.reason.startswith(reason)


def test_packages_below_their_own_idle_power_are_invalid(tmp_path):
    """10 W while idle and 1 W while working: kept with the reason, shown nowhere."""
    packages = Packages(tmp_path)
    packages.idle_uj = 10_000_000
    with TrainingEnergy([CPU], open_counter=packages.open) as energy:
        packages.clock.sleep(10.0)
        packages.gain(10_000_000)
    metric = energy.metrics()["train/cpu_energy_j"]
    assert (metric.value, metric.shown) == (pytest.approx(10.0), None)
    assert metric.reason.startswith("Implausible: a mean power of 1 W")


def test_packages_at_work_have_gross_and_net_energy(tmp_path):
    """10 J of a pass over 8 samples in 1 s, 2 W idle: 1.25 J and 1 J per sample."""
    packages = Packages(tmp_path)
    packages.idle_uj, packages.gains_uj = 2_000_000, 10_000_000
    metrics = measured(real(), open_counter=packages.open).metrics
    assert metrics["infer/cpu_energy_j_per_sample"].shown == pytest.approx(1.25)
    assert metrics["infer/cpu_energy_net_j_per_sample"].shown == pytest.approx(1.0)


def test_a_board_that_draws_no_more_than_idle_has_no_net_energy():
    """Work of 75 W on a board that idles at 75 W: gross energy stands, net is missing, never 0."""
    gpu = real(active_w=75.0)
    metrics = measured(gpu).metrics
    assert metrics["infer/energy_j_per_sample"].shown is not None
    net = metrics["infer/energy_net_j_per_sample"]
    assert net.value is None or net.value > 0


def test_without_a_cpu_counter_training_says_why():
    """The column of the CPU's joules is null with its reason, not absent."""
    metric = training(real())["train/cpu_energy_j"]
    assert metric.value is None
    assert metric.reason.startswith("EnergyUnsupported: no RAPL")


def test_a_training_that_fails_raises_its_own_error():
    """Energy adds no error of its own and leaves no polling behind."""
    gpu = real()
    energy = TrainingEnergy([CPU], lambda where: EnergyMeter("fake", gpu.rig("cuda")), no_rapl)
    with pytest.raises(ZeroDivisionError), energy:
        raise ZeroDivisionError
    assert energy.metrics()["train/energy_j"].value is None


def test_a_training_without_steps_has_no_energy():
    """Null with the trial's own words, not 0."""
    energy = TrainingEnergy([CPU], open_counter=no_rapl)
    with energy:
        pass
    assert energy.metrics("training free")["train/energy_j"].reason == "training free"


def test_a_cpu_training_says_in_one_line_why_it_has_none():
    """The same words as at inference."""
    energy = TrainingEnergy([CPU], open_counter=no_rapl)
    with energy:
        pass
    reason = "no NVIDIA GPU: energy is read from the GPU's own counter"
    assert energy.metrics()["train/energy_j"].reason == reason
