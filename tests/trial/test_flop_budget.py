"""train.flops: the steps that a budget pays for, what is counted, and what is skipped."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from bench.plan.matrix import make_plan
from bench.plan.staleness import write_trials
from bench.plugins.hooks import DEFAULT_HOOKS, Hooks
from bench.records.record import Record
from bench.tasks.digits import Digits
from bench.trial import run as trial
from bench.trial.flop_budget import count_step, counted_steps, steps_within
from bench.trial.trial import Trial
from bench.types import Batch, Recipe, Task, Unsupported
from tests.fakes.line import Line, Points

BRIEF = [
    *("measure.num_inputs=2", "measure.batch_sizes=[1]", "gpu.threads=1", "measure.warmup_s=0"),
    *("measure.block_ms=1", "measure.rounds=1", "measure.processes=1", "backbone.depth=2"),
    *("backbone.dim=12", "backbone.num_heads=1"),
]
RECIPE = Recipe(4, 8, 0.002)  # of the dense start


@pytest.mark.parametrize(("spent", "steps"), [(0.0, 33), (100.0, 30), (970.0, 1)])
def test_a_budget_buys_whole_steps(spent: float, steps: int) -> None:
    """Of 1,000 FLOPs at 30 a step: 33.3, (1,000 - 100) / 30 = 30, and 30 / 30 = 1."""
    assert steps_within(1000.0, spent, 30.0) == steps


def test_what_a_budget_does_not_pay_for_is_skipped() -> None:
    """A start above it, and a rest below one step; the start alone may use all of it."""
    with pytest.raises(Unsupported, match=r"start takes 1e\+03 FLOPs.* train\.flops=999"):
        steps_within(999.0, 1000.0)
    with pytest.raises(Unsupported, match="leaves 29 FLOPs, and a training step takes 30"):
        steps_within(1000.0, 971.0, 30.0)
    assert steps_within(1000.0, 1000.0) == 0


@pytest.mark.parametrize(
    ("steps", "counted"), [(2, []), (3, [2]), (4, [2, 3]), (9, [2, 4, 8]), (100, [2, 50, 99])]
)
def test_an_early_a_middle_and_the_last_step_are_counted(steps: int, counted: list[int]) -> None:
    """None before the third: the second one is probed for memory."""
    assert counted_steps(steps) == counted


def counted(hooks: Hooks, model: nn.Module) -> float:
    """FLOPs of a step of four samples."""
    given = SimpleNamespace(
        device=torch.device("cpu"),
        config=SimpleNamespace(seed=0),
        inference=lambda: torch.autocast("cpu", enabled=False),
    )
    task, recipe = cast(Task, Points()), Recipe(100, 4, 0.1)
    return count_step(model, hooks, task, recipe, cast(Trial, given))


def test_a_step_is_counted_forward_and_backward() -> None:
    """2 x 4 x 1 x 3 = 24 FLOPs, and as many for the weight's gradient; the data need none."""
    assert counted(DEFAULT_HOOKS, Line(3, bias=False)) == 48


def test_a_step_that_changes_is_counted_at_three_times() -> None:
    """One pass at first, two from the middle on: (1 + 2 + 2) / 3 x 48 = 80. The model is kept."""
    model = Line(3, bias=False)
    model.num_calls = 0

    def loss(model: Any, batch: Batch, criterion: Any, progress: float) -> Tensor:
        model.num_calls += 1
        passes = [criterion(model(batch), batch) for _ in range(2 if progress >= 0.5 else 1)]
        return torch.stack(passes).sum()

    assert counted(Hooks(build=Line, loss=loss), model) == 80
    assert (model.num_calls, model.layer.weight.grad, model.training) == (0, None, True)


def trained(results: Path, budget: float | None, *words: str) -> Record:
    """The record of a trial with a budget, or with the recipe's steps."""
    given = [] if budget is None else [f"train.flops={budget}"]
    plan = make_plan([*BRIEF, *given, f"results={results}", *words])
    return trial.run(write_trials(plan.trials[-1:])[0])


def total(record: Record) -> float:
    """train/flops of a trial that ended well."""
    assert record.status == "ok", record.reason
    return record.metrics["train/flops"].value or 0.0


def test_a_trial_ends_within_one_step_of_its_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dense, from the start, and after a start of four steps; a start above it is skipped."""
    monkeypatch.setattr(Digits, "recipe", RECIPE)
    free = trained(tmp_path, None, "method=dense")
    step = free.metrics["train/flops_per_step"].value or 0.0
    assert total(free) == 4 * step
    # 7.5 steps: the half is left over.
    dense = trained(tmp_path, 7.5 * step, "method=dense")
    assert (total(dense), dense.metrics["train/num_steps"].value) == (7 * step, 7)
    for words, start in ((["method=moe"], 0.0), (["method=topk_ffn"], 4 * step)):
        found = trained(tmp_path, 7.5 * step, *words)
        own = found.metrics["train/flops_per_step"].value or 0.0
        num_steps = found.metrics["train/num_steps"].value or 0
        assert total(found) == pytest.approx(start + num_steps * own)
        assert 7.5 * step - own < total(found) <= 7.5 * step * (1 + 1e-9)
    above = trained(tmp_path, 3.5 * step, "method=topk_ffn")
    assert (above.status, above.metrics) == ("skipped", {})
    assert above.reason.startswith("the dense start takes ")
    # Without training of its own, all of the budget is the start's: three steps.
    assert total(trained(tmp_path, 3.5 * step, "method=threshold")) == 3 * step
