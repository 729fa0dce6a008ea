"""Energy per further token: the prompt's share is taken out, on the GPU and on the CPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from bench.config import MeasureConfig
from bench.measure.energy.per_token import measure_token_energy
from bench.measure.inputs import Inputs
from bench.measure.subject import Metrics, Subject
from bench.meters.energy import EnergyMeter, EnergyUnsupported
from bench.meters.energy.rapl import CpuReading
from bench.records.record import Metric, missing
from bench.types import Batch
from tests.fakes.methods import method_of
from tests.fakes.nvml import FakeGpu

GPU, CPU = "infer/energy_j_per_sample", "infer/cpu_energy_j_per_sample"
TOKEN, CPU_TOKEN = "infer/energy_j_per_output_token", "infer/cpu_energy_j_per_output_token"


class First(nn.Module):
    """Reads the prompt and writes the first token of 4 samples: 12 ms at 500 W, 1.5 J each."""

    def __init__(self, gpu: FakeGpu) -> None:
        super().__init__()
        self.step = gpu.work(0.012)

    def forward(self, batch: Batch) -> None:
        self.step()


class Counter:
    """The packages' counter: 0.4 J for a pass over two batches of 4 samples, 0.05 J each."""

    def measure(self, step: Any, seconds: float) -> CpuReading:
        step()
        return CpuReading(gross_j=0.4, window_s=seconds, num_passes=1)


def no_rapl() -> Counter:
    raise EnergyUnsupported("no RAPL: a virtual machine")


def measured(whole: Metrics, num_tokens: int = 6, counter: Any = Counter, **board: Any) -> Metrics:
    """Energy per token after a generation of `num_tokens` that took `whole`."""
    gpu = FakeGpu(driver="580.1", **board)
    subject = Subject(
        model=nn.Identity(),
        method=method_of(),
        task=None,  # type: ignore[arg-type]
        device=torch.device("cpu"),
        config=MeasureConfig(workload="generate", energy_window_s=2.0),
        make_baseline=nn.Identity,
        is_dense=False,
    )
    batch = Batch(torch.zeros(4, 1), torch.zeros(4))
    return measure_token_energy(
        subject,
        First(gpu),
        Inputs({1: [batch], 4: [batch, batch]}),
        whole,
        num_tokens,
        open_meter=lambda where: EnergyMeter("fake", gpu.rig("cuda")),
        open_counter=counter,
    )


def test_the_prompt_is_in_no_token() -> None:
    """4 J whole, 1.5 J to the first of 6 tokens: 0.5 J for each further one, not 4 / 6 J.

    CPU: 0.3 J whole, 0.05 J to the first: 0.05 J.
    """
    whole = {
        GPU: Metric(value=4.0, unit="j", low=3.8, high=4.2),
        CPU: Metric(value=0.3, unit="j", low=0.3, high=0.3),
    }
    found = measured(whole)
    assert found[TOKEN].shown == pytest.approx(0.5, rel=0.02)
    assert found[CPU_TOKEN].shown == pytest.approx(0.05)
    # 0.2 J and the sensor's 5 % of 1.5 J, as root of the sum of squares, over 5 tokens
    half = (found[TOKEN].high - found[TOKEN].low) / 2
    assert half == pytest.approx((0.2**2 + 0.075**2) ** 0.5 / 5, rel=0.02)


def test_each_is_missing_for_its_own_reason() -> None:
    """A board that can be read and packages that cannot, and the other way round."""
    known = Metric(value=4.0, unit="j")
    found = measured({GPU: known, CPU: missing("j", "no RAPL")}, counter=no_rapl)
    assert found[TOKEN].shown is not None
    assert found[CPU_TOKEN].reason == "no RAPL"
    found = measured({GPU: missing("j", "no NVIDIA GPU"), CPU: known})
    assert found[TOKEN].reason == "no NVIDIA GPU"
    assert found[CPU_TOKEN].shown is not None


def test_a_refusal_of_the_short_generation_is_told() -> None:
    """The whole generation was read, the short one was not."""
    found = measured({GPU: Metric(value=4.0, unit="j")}, mig=1)
    assert str(found[TOKEN].reason).startswith("EnergyUnsupported: MIG")


def test_without_a_whole_there_is_nothing_to_measure() -> None:
    """Neither meter is opened where the whole generation has no energy."""

    def never() -> Counter:
        raise AssertionError

    found = measured({GPU: missing("j", "no NVIDIA GPU"), CPU: missing("j", "no RAPL")}, 6, never)
    assert (found[TOKEN].reason, found[CPU_TOKEN].reason) == ("no NVIDIA GPU", "no RAPL")


def test_a_single_token_has_no_further_one() -> None:
    """A reason instead of a division by nothing."""
    found = measured({GPU: Metric(value=4.0, unit="j")}, num_tokens=1)
    assert {metric.reason for metric in found.values()} == {"a single token is generated"}


def test_a_difference_below_zero_is_no_energy() -> None:
    """1 J whole and 1.5 J to the first token: noise, not a gain."""
    found = measured({GPU: Metric(value=1.0, unit="j")})
    assert (found[TOKEN].value, found[TOKEN].valid) == (None, False)


@pytest.mark.parametrize(
    ("energy", "token", "first_j", "shown"),
    [(GPU, TOKEN, 1.5, None), (CPU, CPU_TOKEN, 0.05, None), (GPU, TOKEN, 1.5, 0.5)],
)
def test_tokens_cannot_take_less_than_the_idle_device(energy, token, first_j, shown) -> None:
    """Five further tokens in which the idle device alone draws 2 J, and 0.1 J of them measured.

    With 2.5 J for them the figure stands: 0.5 J a token.
    """
    further_j = 0.1 if shown is None else 5 * shown
    whole_j, idle_j = first_j + further_j, 2.0 + 0.225  # idle: 2 J, and 0.225 J of the first token
    net = {GPU: "infer/energy_net_j_per_sample", CPU: "infer/cpu_energy_net_j_per_sample"}[energy]
    other = CPU if energy == GPU else GPU
    whole = {
        energy: Metric(value=whole_j, unit="j"),
        net: Metric(value=whole_j - idle_j, unit="j"),
        other: missing("j", "not there"),
    }
    found = measured(whole, counter=IdleCounter)[token]
    assert found.shown == (None if shown is None else pytest.approx(shown, rel=0.02))
    if shown is None:
        assert found.reason == "the further tokens took less energy than the idle device"


class IdleCounter(Counter):
    """As `Counter`, and the idle packages draw half of it."""

    def measure(self, step: Any, seconds: float) -> CpuReading:
        step()
        return CpuReading(gross_j=0.4, window_s=1.0, num_passes=1, idle_w=0.2)
