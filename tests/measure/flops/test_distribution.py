"""The spread of FLOPs over inputs: of enough of them, or missing with its reason."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor, nn

from bench.measure.flops.distribution import measure_distribution
from bench.measure.inputs import choose_inputs, further_inputs
from bench.records.record import Metric
from bench.tasks.parts.preloaded import iterate_batches
from bench.types import Batch, Output

DIM = 4
LAYER = 2 * DIM * DIM  # FLOPs of one sample


class Exits(nn.Module):
    """As many layers as the sample's first number."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(DIM, DIM, bias=False)

    def forward(self, batch: Batch) -> Output:
        x: Tensor = batch.inputs
        for _ in range(int(batch.inputs[0, 0])):
            x = self.layer(x)
        return Output(x)


class Counts:
    """A task whose test sample n holds the number n, in a seeded order."""

    def __init__(self, num_samples: int) -> None:
        numbers = torch.arange(float(num_samples))[:, None].expand(-1, DIM).contiguous()
        self.samples = Batch(numbers, torch.zeros(num_samples))

    def num_samples(self, split: str) -> int:
        return len(self.samples)

    def batches(self, split: str, batch_size: int, *, seed: int | None = None):
        return iterate_batches(self.samples, batch_size, seed=seed)


def numbers(batches: list[Batch]) -> list[int]:
    """Which samples of `Counts` these are."""
    return [int(each.inputs[0, 0]) for each in batches]


def spread(timed: list[int], layers: list[int], doubt: str | None = None) -> dict[str, Metric]:
    """Percentiles of inputs that were counted before and of one input per number of layers."""
    further = [Batch(torch.full((1, DIM), float(n)), torch.zeros(1)) for n in layers]
    subject = SimpleNamespace(model=Exits())
    return measure_distribution(subject, np.array(timed), doubt, further).metrics  # type: ignore


def test_percentiles_are_over_timed_and_further_inputs() -> None:
    """Of 100 inputs 50 take one layer, 40 take two and 10 take eight."""
    found = spread([LAYER] * 50, [2] * 40 + [8] * 10)
    assert found["infer/flops_per_sample_p50"].value == LAYER
    assert found["infer/flops_per_sample_p90"].value == 2 * LAYER
    assert found["infer/flops_per_sample_max"].value == 8 * LAYER
    assert found["infer/num_flops_inputs"].value == 100


def test_too_few_inputs_have_no_tail() -> None:
    """The 99th percentile of 100 inputs would be one input's cost."""
    found = spread([LAYER] * 99, [8])["infer/flops_per_sample_p99"]
    assert found.value is None
    assert found.reason == "p99 needs 1000 inputs, 100 were measured"


def test_an_incomplete_count_leaves_the_percentiles_in_doubt() -> None:
    """They are lower bounds then."""
    found = spread([LAYER] * 30, [], doubt="operations without a FLOP formula: x")
    assert found["infer/flops_per_sample_p50"].shown is None
    assert found["infer/flops_per_sample_max"].reason == "operations without a FLOP formula: x"


def test_further_inputs_follow_the_timed_ones() -> None:
    """64 are timed and 192 more counted: 256 different ones."""
    task = Counts(1000)
    timed = numbers(choose_inputs(task, 64, [1], "cpu").samples)  # type: ignore[arg-type]
    more = numbers(further_inputs(task, 64, "cpu"))  # type: ignore[arg-type]
    assert (len(timed), len(more)) == (64, 192)
    assert len({*timed, *more}) == 256


def test_careful_profiles_count_every_test_sample_up_to_2048() -> None:
    """A trial in miniature counts no more than it times."""
    for num_timed, num_samples, num_more in ((256, 700, 444), (256, 3000, 1792), (8, 700, 0)):
        found = further_inputs(Counts(num_samples), num_timed, "cpu")  # type: ignore[arg-type]
        assert len(found) == num_more


def test_a_small_test_split_has_no_further_inputs() -> None:
    """All 64 are timed already."""
    assert further_inputs(Counts(64), 64, "cpu") == []  # type: ignore[arg-type]
