"""Other counters beside ours: what they see and ours does not makes every FLOP figure doubtful."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

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
    subject = SimpleNamespace(model=model.eval(), device=torch.device("cpu"))
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


def test_what_the_profiler_cannot_see_covers_no_hidden_work() -> None:
    """Attention and a matrix times a vector are FLOPs of the ledger that the profiler misses."""

    class Covers(nn.Module):
        def forward(self, batch: Batch) -> Output:
            rows = batch.inputs.reshape(-1, 1, 2, 4)
            F.scaled_dot_product_attention(rows, rows, rows)  # 64 FLOPs a sample
            torch.ones(50, DIM).mv(batch.inputs[0])  # 800 FLOPs
            return Output(hidden(batch.inputs))

    assert unseen(Covers()) == NUM_SAMPLES * 128


def test_convolutions_cover_no_hidden_products() -> None:
    """One-dimensional convolutions are not profiled: 8 x 8 MACs a sample and position."""

    class Convolves(nn.Module):
        def forward(self, batch: Batch) -> Output:
            F.conv1d(batch.inputs[:, :, None].expand(-1, -1, 50), torch.ones(DIM, DIM, 1))
            return Output(hidden(batch.inputs))

    assert unseen(Convolves()) == NUM_SAMPLES * 128


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
    """One stored weight of 64 is 2 FLOPs; the profiler takes it for 64, and that is no doubt."""

    class Sparse(nn.Module):
        weight = F.pad(torch.ones(1, 1), (0, 7, 0, 7)).to_sparse()

        def forward(self, batch: Batch) -> Output:
            return Output((self.weight @ batch.inputs.T).T)

    details = details_of(measure_crosscheck(*given(Sparse())))
    assert sum(details["profiler_flops"].values()) > details["flops"]
    assert details["unseen_flops"] == 0


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
