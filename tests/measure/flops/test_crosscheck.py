"""Other counters beside ours: what they see and ours does not makes every FLOP figure doubtful."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state
from torch.nn import functional as F
from torch.utils._python_dispatch import _disable_current_modes

from bench import routing
from bench.measure.findings import Part
from bench.measure.flops.crosscheck import measure_crosscheck
from bench.measure.inputs import Inputs
from bench.types import Batch, Output
from tests.fakes.methods import method_of

DIM, NUM_SAMPLES = 8, 4


class Halves(nn.Module):
    """Two linear layers without bias: the first for positive sums, the second for the others."""

    def __init__(self) -> None:
        super().__init__()
        self.positive = nn.Linear(DIM, DIM, bias=False)
        self.negative = nn.Linear(DIM, DIM, bias=False)

    def forward(self, batch: Batch) -> Output:
        is_positive = batch.inputs.sum(1) > 0
        out = batch.inputs.new_empty(len(batch), DIM)
        for layer, rows in ((self.positive, is_positive), (self.negative, ~is_positive)):
            if rows.any():
                out[rows] = layer(batch.inputs[rows])
        return Output(out)


def given(model: nn.Module) -> tuple[SimpleNamespace, Inputs]:
    """`model` as a subject on a CPU, with one batch of four samples of alternating sign."""
    signs = torch.tensor([1.0, -1.0, 1.0, -1.0])
    batch = Batch(signs[:, None].expand(-1, DIM).contiguous(), torch.zeros(4, dtype=torch.long))
    singles = [batch.select(torch.tensor([n])) for n in range(NUM_SAMPLES)]
    subject = SimpleNamespace(model=model.eval(), device=torch.device("cpu"), method=method_of())
    return subject, Inputs({1: singles, NUM_SAMPLES: [batch]})


def details_of(found: Part) -> dict[str, Any]:
    """The entry of the diagnostics."""
    return found.diagnostics["flop_crosscheck"]


def unseen(model: nn.Module) -> int:
    """FLOPs that only the profiler saw, the most of any input or batch."""
    return details_of(measure_crosscheck(*given(model)))["unseen_flops"]


def hidden(rows: Tensor) -> Tensor:
    """rows [B, 8] times an 8 x 8 matrix, 128 FLOPs a row, with dispatch modes switched off."""
    with _disable_current_modes():
        return rows @ torch.ones(DIM, DIM)


def test_other_counters_stand_beside_ours() -> None:
    """One linear layer of 8 x 8 is 64 MACs: 128 FLOPs for us and the profiler, 64 for fvcore."""
    found = measure_crosscheck(*given(Halves()))
    assert details_of(found)["flops"] == 128
    assert found.metrics["infer/flops_profiler"].value == 128
    assert found.metrics["infer/macs_fvcore"].value == 64


def test_work_hidden_from_the_ledger_is_seen_by_the_profiler() -> None:
    """8 x 8 = 64 MACs a sample with dispatch modes switched off: 0 FLOPs for the ledger, in truth
    128, and 512 in a batch of four."""

    class Hides(nn.Module):
        def forward(self, batch: Batch) -> Output:
            return Output(hidden(batch.inputs))

    assert unseen(Hides()) == NUM_SAMPLES * 128
    assert unseen(Halves()) == 0


def test_work_that_hides_on_some_inputs_or_in_batches_only_is_seen() -> None:
    """The first input alone would not show it."""

    class HidesLater(nn.Module):
        def forward(self, batch: Batch) -> Output:
            late = len(batch) == 1 and bool(batch.inputs.sum() < 0)
            return Output(hidden(batch.inputs) if late else batch.inputs * 2)

    class HidesInBatches(nn.Module):
        def forward(self, batch: Batch) -> Output:
            return Output(hidden(batch.inputs) if len(batch) > 1 else batch.inputs * 2)

    assert unseen(HidesLater()) == 128
    assert unseen(HidesInBatches()) == NUM_SAMPLES * 128


# FLOPs of the ledger that a sum over all ops would set off against 128 hidden ones per sample
COVERS: dict[str, Callable[[Tensor], object]] = {
    "attention": lambda x: F.scaled_dot_product_attention(*[x.reshape(-1, 1, 2, 4)] * 3),
    "attention, masked": lambda x: F.scaled_dot_product_attention(
        *[x.reshape(-1, 1, 2, 4)] * 3, is_causal=True
    ),
    "matrix times vector": lambda x: torch.ones(500, DIM).mv(x[0]),
    "convolution": lambda x: F.conv1d(x[:, :, None].expand(-1, -1, 50), torch.ones(DIM, DIM, 1)),
    "convolution, strided": lambda x: F.conv2d(
        x[:, :, None, None].expand(-1, -1, 9, 9), torch.ones(DIM, DIM, 3, 3), stride=2, padding=1
    ),
    "transposed": lambda x: F.conv_transpose3d(
        x[:, :, None, None, None].expand(-1, -1, 3, 3, 3), torch.ones(DIM, 2, 2, 2, 2)
    ),
    "same": lambda x: F.conv1d(
        x[:, :, None].expand(-1, -1, 9), torch.ones(DIM, DIM, 3), padding="same"
    ),
    "recurrent": lambda x: nn.LSTM(DIM, 16)(x[None]),
    "outer": lambda x: torch.addr(torch.zeros(DIM, 99), x[0], torch.ones(99)),
    "fused activation": lambda x: torch._addmm_activation(torch.ones(DIM), x, torch.ones(DIM, DIM)),
    "sparse": lambda x: torch.eye(DIM).to_sparse() @ x.T,
    "sparse rows": lambda x: torch.eye(DIM).to_sparse_csr() @ x.T,
    "sparse times vector": lambda x: torch.eye(DIM).to_sparse_csr() @ x[0],
    "sparse times sparse": lambda x: torch.sparse.mm(
        torch.eye(DIM).to_sparse(), torch.eye(DIM).to_sparse()
    ),
    "weighted bag": lambda x: F.embedding_bag(
        torch.arange(8).view(1, 8), torch.ones(8, 99), mode="sum", per_sample_weights=x[:1]
    ),
}


@pytest.mark.filterwarnings("ignore:Sparse:UserWarning")
@pytest.mark.parametrize("name", COVERS)
def test_no_honest_work_covers_hidden_work(name: str) -> None:
    """Each kind is seen alike by both counters, or left out by both: no excess, and no cover."""

    class Honest(nn.Module):
        def forward(self, batch: Batch) -> Output:
            COVERS[name](batch.inputs)
            return Output(batch.inputs)

    class Covers(Honest):
        def forward(self, batch: Batch) -> Output:
            super().forward(batch)
            return Output(hidden(batch.inputs))

    assert unseen(Honest()) == 0
    assert unseen(Covers()) == NUM_SAMPLES * 128


# (work, its FLOPs for one sample of width 8)
HIDDEN: dict[str, tuple[Callable[[Tensor], object], int]] = {
    "matrix times vector": (lambda x: torch.ones(50, DIM).mv(x[0]), 2 * 50 * 8),
    "vector times vector": (lambda x: x[0].dot(x[0]), 2 * 8),
    "one-dimensional": (
        lambda x: F.conv1d(x[:, None], torch.ones(4, 1, 3), stride=2),
        2 * 4 * 3 * 3,
    ),
    "two-dimensional, dilated": (
        lambda x: F.conv2d(x.view(-1, 1, 2, 4), torch.ones(1, 1, 1, 2), dilation=2),
        2 * 2 * 2 * 2,
    ),
    "three-dimensional": (
        lambda x: F.conv3d(x.view(-1, 1, 2, 2, 2), torch.ones(3, 1, 2, 2, 2), padding=1),
        2 * 3 * 27 * 8,
    ),
    "transposed": (
        lambda x: F.conv_transpose1d(x[:, None], torch.ones(1, 4, 3), stride=2),
        2 * 8 * 4 * 3,
    ),
    "recurrent": (lambda x: nn.LSTM(DIM, 16)(x[None]), 2 * 4 * 16 * (8 + 16)),
    "attention": (
        lambda x: F.scaled_dot_product_attention(*[x.reshape(-1, 1, 2, 4)] * 3),
        2 * 2 * 2 * 8,
    ),
    # one sparse tensor elsewhere leaves out its own product only
    "beside a sparse product": (
        lambda x: (torch.eye(DIM).to_sparse() @ x.T, x @ torch.ones(DIM, DIM)),
        2 * 64,
    ),
}


@pytest.mark.filterwarnings("ignore:Sparse:UserWarning")
@pytest.mark.parametrize("name", HIDDEN)
def test_hidden_work_of_every_kind_is_seen(name: str) -> None:
    """Convolutions of one and three dimensions, vectors, recurrence, beside sparse products."""
    work, flops = HIDDEN[name]

    class Hides(nn.Module):
        def forward(self, batch: Batch) -> Output:
            for row in batch.inputs[:, None]:
                with _disable_current_modes(), warnings.catch_warnings():
                    work(row)
            return Output(batch.inputs)

    assert unseen(Hides()) == NUM_SAMPLES * flops


def test_vectorised_experts_are_counted_once() -> None:
    """Under vmap the profiler meets a product and the batched one that it becomes."""

    class Stacked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            experts = [nn.Linear(DIM, DIM) for _ in range(3)]
            self.base, (self.stack, _) = experts[0], stack_module_state(experts)

        def forward(self, batch: Batch) -> Output:
            run = torch.vmap(lambda p: functional_call(self.base, p, (batch.inputs,)))
            return Output(run(self.stack).sum(0))

    found = measure_crosscheck(*given(Stacked()))
    assert details_of(found)["flops"] == 3 * 128
    assert found.metrics["infer/flops_profiler"].value == 3 * 128
    assert details_of(found)["unseen_flops"] == 0


def test_flops_from_a_plugins_formula_are_listed(monkeypatch) -> None:
    """No other counter can verify a formula that a plugin registered: a note names it."""
    monkeypatch.setattr(sys.modules["bench.routing.formulas"], "_formulas", {})
    with torch.library._scoped_library("condbenchcrosscheck", "DEF") as library:
        library.define("double(Tensor x) -> Tensor")
        library.impl("double", lambda x: x * 2, "CPU")
        op = torch.ops.condbenchcrosscheck.double
        routing.register_formula(op, lambda args, kwargs, output: 77)

        class Custom(nn.Module):
            def forward(self, batch: Batch) -> Output:
                return Output(op(batch.inputs))

        found = measure_crosscheck(*given(Custom()))
    assert details_of(found)["flops_by_plugin_formula"] == {"condbenchcrosscheck::double": 77}
    assert found.notes == ["FLOPs from unverified plugin formulas: condbenchcrosscheck::double"]


def test_sparse_operands_are_no_hidden_work() -> None:
    """One stored weight of 64 is 2 FLOPs; the profiler cannot see that, and leaves it out."""

    class Sparse(nn.Module):
        weight = F.pad(torch.ones(1, 1), (0, 7, 0, 7)).to_sparse()

        def forward(self, batch: Batch) -> Output:
            return Output((self.weight @ batch.inputs.T).T)

    details = details_of(measure_crosscheck(*given(Sparse())))
    assert (details["flops"], details["profiler_flops"]) == (2, {})
    assert (details["sparse_products"], details["unseen_flops"]) == (1, 0)


def test_a_model_that_fvcore_cannot_trace_is_missing_with_its_reason() -> None:
    """fvcore's failure is a reason in the record, not the end of the trial."""

    class Refuses(nn.Module):
        def forward(self, batch: Batch) -> Output:
            if torch.jit.is_tracing():
                raise RuntimeError("no tracing here")
            return Output(batch.inputs @ batch.inputs.T)

    found = measure_crosscheck(*given(Refuses())).metrics
    assert found["infer/macs_fvcore"].value is None
    assert "no tracing here" in found["infer/macs_fvcore"].reason


def test_work_outside_torch_is_a_doubt_in_words() -> None:
    """A product in NumPy: the 64 floats of a weight leave, 32 of a batch of results come in."""
    weight = torch.ones(DIM, DIM)

    class ByNumpy(nn.Module):
        def forward(self, batch: Batch) -> Output:
            product = batch.inputs.numpy() @ weight.numpy()
            return Output(torch.from_numpy(product) + batch.inputs @ weight)

    leaving, coming = details_of(measure_crosscheck(*given(ByNumpy())))["doubts"]
    assert leaving.startswith("64 floats leave torch by numpy in one call")
    assert coming.startswith("32 floats that depend on the input come into torch in one call")
    assert details_of(measure_crosscheck(*given(Halves())))["doubts"] == []
