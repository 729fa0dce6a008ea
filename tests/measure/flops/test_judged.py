"""What is counted must be what was judged: equal logits, and the costs named where they differ."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from bench.measure.findings import Part
from bench.measure.flops.judged import measure_judged
from bench.measure.judged import Judged
from bench.measure.quality.judge import evaluate
from bench.types import Batch, Output, Quality
from tests.fakes.methods import method_of

DIM, SIZE = 8, 20


class Model(nn.Module):
    """Two layers; `run(self, inputs)` decides what is computed."""

    def __init__(self, run: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(DIM, DIM), nn.Linear(DIM, DIM)
        self.run = run
        self.num_calls = 0

    def forward(self, batch: Batch) -> Output:
        self.num_calls += 1
        return Output(self.run(self, batch.inputs))


class Task:
    """Two test batches; the quality is no part of this."""

    def batches(self, split: str, size: int) -> list[Batch]:
        generator = torch.Generator().manual_seed(1)
        inputs = torch.randn(2, SIZE, DIM, generator=generator)
        return [Batch(each, torch.arange(SIZE)) for each in inputs]

    def evaluate(self, model: Any, batches: Any) -> Quality:
        for batch in batches:
            model(batch).logits.zero_()  # a task may do what it likes with its logits
        return Quality(0.0, "%", "higher")


def judged_part(run: Callable[[Any, Tensor], Tensor], **flags: Any) -> Part:
    """The part of a model that was evaluated by the task, then counted."""
    model = Model(run)
    subject = SimpleNamespace(
        model=model, task=Task(), device=torch.device("cpu"), method=method_of(**flags)
    )
    subject.at = lambda point: _At(model)
    judged = Judged()
    evaluate(subject, {}, judged)
    assert torch.equal(judged.batch.targets, torch.zeros(SIZE, dtype=torch.long))
    return measure_judged(subject, judged)


class _At:
    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def __enter__(self) -> nn.Module:
        return self.model

    def __exit__(self, *_: object) -> None:
        return None


def doubts(part: Part) -> list[str]:
    return part.diagnostics["flop_crosscheck"]["doubts"]


def skipping(model: Any, x: Tensor) -> Tensor:
    """The second layer for positive sums only, alone and in a batch."""
    y, run = model.first(x), x.sum(-1) > 0
    if run.any():
        y = y.index_put((run.nonzero()[:, 0],), model.second(y[run]))
    return y


def test_an_honest_model_is_judged_as_it_is_counted() -> None:
    """Equal logits and equal cost, in the batch and alone: no doubt and no note."""
    part = judged_part(skipping)
    assert (doubts(part), part.notes) == ([], [])
    costs = part.diagnostics["flop_crosscheck"]
    assert costs["flops_judged"] == costs["flops_judged_alone"]


def test_computing_everything_in_batches_is_named() -> None:
    """The same logits at both layers' cost in a batch: masked there, skipped alone."""

    def masks(model: Any, x: Tensor) -> Tensor:
        if len(x) == 1:
            return skipping(model, x)
        y = model.first(x)
        return torch.where((x.sum(-1) > 0)[:, None], model.second(y), y)

    part = judged_part(masks)
    assert doubts(part) == []
    (note,) = part.notes
    assert "in batches of 20, where quality is judged" in note
    costs = part.diagnostics["flop_crosscheck"]
    assert costs["flops_judged"] == 2 * 2 * DIM * DIM > costs["flops_judged_alone"]


def test_answering_well_in_batches_only_is_a_doubt() -> None:
    """The second layer runs in batches, where quality is judged, and never alone."""

    def cheats(model: Any, x: Tensor) -> Tensor:
        return model.first(x) if len(x) == 1 else model.second(model.first(x))

    (doubt,) = doubts(judged_part(cheats))
    assert doubt.startswith("counted alone, 100% of the results are other ones")
    # A declared dependence on the batch is a note of its own; the cost is still named.
    part = judged_part(cheats, batch_invariant=False)
    assert doubts(part) == []
    assert part.notes


def test_answering_well_while_it_is_judged_only_is_a_doubt() -> None:
    """After the evaluation's two batches the second layer never runs again."""

    def tires(model: Any, x: Tensor) -> Tensor:
        return model.second(model.first(x)) if model.num_calls <= 2 else model.first(x)

    found = doubts(judged_part(tires))
    assert found[0].startswith("counted in that batch, 100% of the results")
    assert len(found) == 2


def test_a_few_flipped_decisions_are_rounding() -> None:
    """Two samples of twenty may decide otherwise; three are too many."""

    def flips(num: int) -> Callable[[Any, Tensor], Tensor]:
        def run(model: Any, x: Tensor) -> Tensor:
            y = model.first(x)
            flipped = torch.arange(len(x)) < num if len(x) > 1 else torch.zeros(1).bool()
            return torch.where(flipped[:, None], y + 1, y)

        return run

    assert doubts(judged_part(flips(2))) == []
    assert doubts(judged_part(flips(3))) != []


def test_without_a_call_there_is_nothing_to_compare() -> None:
    """A task that judges by its own means; a control that reads the targets it no longer gets."""
    subject = SimpleNamespace(method=method_of())
    assert measure_judged(subject, Judged()) == Part()
    known = Judged(Batch(torch.zeros(1, DIM), torch.zeros(1)), torch.zeros(1, 3))
    assert measure_judged(SimpleNamespace(method=method_of(reads_targets=True)), known) == Part()


def test_logits_of_large_batches_are_kept_in_part() -> None:
    """At most 16 MiB: of 2**20 numbers a sample, four samples."""
    judged, output = Judged(), Output(torch.zeros(6, 2**20))
    judged.hear(Batch(torch.zeros(6, 1), torch.zeros(6)), output)
    assert judged.logits.shape == (4, 2**20)
