"""The counts of each input in the record: FLOPs, and work that is not counted as such."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.config import MeasureConfig
from bench.measure.flops.cost import DenseCost, measure_cost, measure_dense_cost
from bench.measure.flops.crosscheck import measure_crosscheck
from bench.measure.inputs import Inputs
from bench.measure.subject import Subject
from bench.meters.flops.counter import CONVENTION
from bench.records.record import Metric
from bench.types import Batch, Output
from tests.fakes.methods import method_of

DIM, NUM_SAMPLES = 8, 4


class Plain(nn.Module):
    """A linear layer without bias, and a ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(DIM, DIM, bias=False)

    def forward(self, batch: Batch) -> Output:
        return Output(F.relu(self.layer(batch.inputs)))


class Causal(nn.Module):
    """Causal attention over each sample's eight numbers as two tokens of four."""

    def forward(self, batch: Batch) -> Output:
        x: Tensor = batch.inputs.reshape(-1, 1, 2, 4)
        return Output(F.scaled_dot_product_attention(x, x, x, is_causal=True))


def given(model: nn.Module) -> tuple[Subject, Inputs]:
    """`model` as a subject with four samples, alone and together."""
    batch = Batch(torch.ones(NUM_SAMPLES, DIM), torch.zeros(NUM_SAMPLES, dtype=torch.long))
    singles = [batch.select(torch.tensor([n])) for n in range(NUM_SAMPLES)]
    subject = Subject(
        model=model.eval(),
        method=method_of(),
        task=None,  # type: ignore[arg-type]
        device=torch.device("cpu"),
        config=MeasureConfig(),
        make_baseline=lambda: model,
        is_dense=False,
    )
    return subject, Inputs({1: singles, NUM_SAMPLES: [batch]})


def costs(model: nn.Module) -> dict[str, Metric]:
    subject, inputs = given(model)
    return dict(measure_cost(subject, inputs, DenseCost({1: 256.0, NUM_SAMPLES: 256.0})).metrics)


def test_elementwise_work_and_bytes_have_columns_of_their_own() -> None:
    """Per sample 64 MACs; 8 elements by the ReLU; the product reads 8 + 64 and writes 8 numbers,
    the ReLU reads and writes 8: 96 numbers of 4 bytes."""
    found = costs(Plain())
    assert found["infer/flops_per_sample"].value == 128
    assert found["infer/flops_share"].value == 0.5
    assert found["infer/pointwise_elems"].value == 8
    assert found["infer/bytes_touched"].value == 4 * 96


def test_causal_attention_has_a_second_figure() -> None:
    """Two products of 2 x 2 x 4 MACs are 64 FLOPs; a mask leaves 3 of the 4 pairs: 48."""
    found = costs(Causal())
    assert found["infer/flops_per_sample"].value == 64
    assert found["infer/flops_causal"].value == 48


def test_the_record_says_by_which_rules_it_counted() -> None:
    """Convention and formulas' version stand beside the count."""
    details = measure_crosscheck(*given(Plain())).diagnostics
    assert details["flop_crosscheck"]["convention"] == CONVENTION
    assert len(details["flop_crosscheck"]["formulas"]) == 12


class Spectral(nn.Module):
    """A linear layer without bias and the Fourier transform, which has no formula."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(DIM, DIM, bias=False)

    def forward(self, batch: Batch) -> Output:
        return Output(torch.fft.rfft(self.layer(batch.inputs)).real)


class Copies(nn.Module):
    """A model that computes nothing."""

    def forward(self, batch: Batch) -> Output:
        return Output(batch.inputs.clone())


def ratios(model: nn.Module, baseline: nn.Module) -> dict[str, Metric]:
    """FLOP share and ratios of `model` beside `baseline`, counted on the same inputs."""
    subject, inputs = given(model)
    found = measure_cost(subject, inputs, measure_dense_cost(baseline, inputs)).metrics
    return {key: found[key] for key in ("infer/flops_share", "infer/tau_b1", "infer/tau_b4")}


def test_an_incomplete_dense_count_makes_every_ratio_to_it_invalid() -> None:
    """The method's count is exact, but what it is divided by is only a lower bound."""
    for metric in ratios(Plain(), Spectral()).values():
        assert metric.shown is None
        assert metric.value == 1.0
        assert metric.reason.startswith(
            "dense model: operations without a FLOP formula: aten::_fft"
        )


def test_complete_counts_make_valid_ratios() -> None:
    """The same layer against itself: 1 everywhere."""
    assert [metric.shown for metric in ratios(Plain(), Plain()).values()] == [1.0, 1.0, 1.0]


def test_no_flops_make_no_ratio() -> None:
    """A model that computes nothing divides by nothing, on either side."""
    for model, baseline, name in (
        (Plain(), Copies(), "dense model"),
        (Copies(), Plain(), "method"),
    ):
        reasons = [metric.reason for metric in ratios(model, baseline).values()]
        assert reasons == [f"the {name} executed no FLOPs"] * 3
