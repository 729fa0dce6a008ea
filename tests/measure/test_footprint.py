"""Parameters and memory of a model that is small enough to count by hand."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from bench.measure import footprint
from bench.measure.footprint import measure_footprint, repeated
from bench.measure.inputs import Inputs
from bench.measure.resident import Resident, infer
from bench.types import Batch, Output

DIM, NUM_SAMPLES = 8, 4
MIB = 2**20


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


class Holder(nn.Module):
    """Holds 64 MiB more during a pass than after it."""

    def forward(self, batch: Batch) -> Output:
        return Output(torch.ones(64 * MIB // 4).sum() + batch.inputs)


def given(model: nn.Module) -> tuple[SimpleNamespace, Inputs]:
    """`model` as a subject on a CPU, with one batch of four samples of alternating sign."""
    signs = torch.tensor([1.0, -1.0, 1.0, -1.0])
    batch = Batch(signs[:, None].expand(-1, DIM).contiguous(), torch.zeros(4, dtype=torch.long))
    singles = [batch.select(torch.tensor([n])) for n in range(NUM_SAMPLES)]
    subject = SimpleNamespace(model=model.eval(), device=torch.device("cpu"))
    return subject, Inputs({1: singles, NUM_SAMPLES: [batch]})


def test_active_parameters_are_those_of_the_path_taken() -> None:
    """Two layers of 64 weights are kept, every sample reads one of them."""
    found = measure_footprint(*given(Halves())).metrics
    assert found["model/params"].value == 128
    assert found["model/active_params_per_sample"].value == 64


def test_peak_memory_holds_the_parameters_and_grows_with_the_batch() -> None:
    """128 weights are 512 bytes; a batch of four needs more beside them than one sample."""
    found = measure_footprint(*given(Halves())).metrics
    one, four = (found[f"infer/peak_tensor_bytes_b{size}"].value for size in (1, NUM_SAMPLES))
    assert 512 < one < four


def test_the_largest_batch_is_a_question_for_a_gpu() -> None:
    """On a CPU it is missing, with the reason."""
    found = measure_footprint(*given(Halves())).metrics["infer/largest_batch"]
    assert found.value is None
    assert "no GPU" in found.reason


def test_a_pass_that_allocates_nothing_has_no_peak() -> None:
    """A model that hands its input on ends no trial: the peak is missing, with the reason."""

    class HandsOn(nn.Module):
        def forward(self, batch: Batch) -> Output:
            return Output(batch.inputs)

    found = measure_footprint(*given(HandsOn())).metrics["infer/peak_tensor_bytes_b1"]
    assert found.value is None
    assert "allocated nothing" in found.reason


def test_work_in_other_threads_leaves_the_peak_in_doubt() -> None:
    """The number is kept as a lower bound; what that thread read is not known at all."""

    class Aside(Halves):
        def forward(self, batch: Batch) -> Output:
            with ThreadPoolExecutor(1) as pool:
                return pool.submit(super().forward, batch).result()

    found = measure_footprint(*given(Aside())).metrics
    peak = found["infer/peak_tensor_bytes_b1"]
    assert peak.value == 512  # the 128 weights, and nothing of the pass
    assert peak.shown is None
    assert "other threads (a thread pool" in peak.reason
    assert "other threads" in found["model/active_params_per_sample"].reason


def test_what_only_the_meter_cannot_do_ends_no_trial() -> None:
    """A model that refuses dispatch modes has no active parameters, with the reason."""

    class Refuses(Halves):
        def forward(self, batch: Batch) -> Output:
            if torch.utils._python_dispatch._get_current_dispatch_mode() is not None:
                raise TypeError("no modes here")
            return super().forward(batch)

    found = measure_footprint(*given(Refuses())).metrics["model/active_params_per_sample"]
    assert found.value is None
    assert "TypeError: no modes here" in found.reason


def test_a_batch_that_fails_for_another_reason_has_no_largest_size(monkeypatch) -> None:
    """A kernel's own limit is no full device."""

    def refuse(run: object) -> int:
        raise RuntimeError("invalid configuration argument\nmore words")

    monkeypatch.setattr(footprint, "find_largest_batch", refuse)
    subject, inputs = given(Halves())
    subject.device = SimpleNamespace(type="cuda")
    found = footprint._largest_batch(subject, inputs)  # type: ignore[arg-type]
    assert found.value is None
    assert found.reason == "it ended with RuntimeError: invalid configuration argument"


def test_a_repeated_sample_is_a_batch_of_copies() -> None:
    """Three times the one sample."""
    _, inputs = given(Halves())
    assert torch.equal(repeated(inputs.samples[1], 3).inputs, torch.full((3, DIM), -1.0))


def test_the_resident_peak_is_measured_in_a_process_of_its_own() -> None:
    """A pass that holds 64 MiB for a moment raises the peak, and not what remains."""
    found = Resident(*given(Holder())).wait().metrics
    peak, warm = (found[f"infer/{name}_bytes"].value for name in ("peak_rss", "rss_after_warmup"))
    assert peak - warm > 50 * MIB


def test_a_model_that_cannot_travel_is_missing_with_its_reason() -> None:
    """A closure inside a model stays in its process; the figure is missing, with the reason."""
    model = Halves()
    model.hook = lambda x: x  # type: ignore[assignment]
    found = Resident(*given(model)).wait().metrics["infer/peak_rss_bytes"]
    assert found.value is None
    assert "cannot be sent" in found.reason


def test_the_child_computes_with_the_threads_and_the_format_of_the_trial() -> None:
    """Under bfloat16 the layers' outputs are bfloat16 there too."""
    seen: list[torch.dtype] = []

    class Watched(nn.Linear):
        def forward(self, batch: Batch) -> Tensor:  # type: ignore[override]
            out = super().forward(batch.inputs)
            seen.append(out.dtype)
            return out

    _, inputs = given(Halves())
    run = partial(infer, Watched(DIM, DIM), inputs.samples[0], torch.get_num_threads())
    run()
    run(torch.bfloat16)
    assert seen == [torch.float32, torch.bfloat16]
