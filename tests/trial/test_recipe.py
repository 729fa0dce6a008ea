"""The recipe that a model is trained with: the task's, the experiment's, and a share of both."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import torch
from torch import nn

from bench.config import TrainConfig
from bench.plugins.hooks import DEFAULT_HOOKS
from bench.trial.fine_tuning import with_fine_tuning
from bench.trial.train import resolve_recipe
from bench.types import Recipe

TASK = Recipe(steps=15, batch_size=8, lr=0.002)


def test_the_experiment_overrides_the_task() -> None:
    """What is null stays the task's own."""
    found = resolve_recipe(TASK, TrainConfig(steps=100, lr=0.5))
    assert (found.steps, found.batch_size, found.lr) == (100, 8, 0.5)


def test_a_share_of_the_steps_is_rounded_up() -> None:
    """0.1 of 15 steps are two."""
    assert resolve_recipe(TASK, TrainConfig(fine_tune_lr_share=0.5), 0.1).steps == 2


def gated(dense: nn.Module) -> nn.Module:
    """A copy of `dense` with a gate beside it, as `convert` makes one."""
    return nn.ModuleDict({"trunk": deepcopy(dense), "gate": nn.Linear(2, 2)})


def test_what_was_taken_over_learns_slowly_and_what_is_new_at_the_full_rate() -> None:
    """A quarter of 0.002 for the trunk's two weights, 0.002 for the gate's two."""
    dense = nn.Linear(2, 2)
    model = gated(dense)
    hooks = with_fine_tuning(DEFAULT_HOOKS, dense, model, 0.25)
    assert hooks.param_groups is not None
    old, new = hooks.param_groups(model, 0.002)
    assert (old["lr"], new["lr"]) == (0.0005, 0.002)
    assert [id(p) for p in old["params"]] == [id(p) for p in model["trunk"].parameters()]
    assert [id(p) for p in new["params"]] == [id(p) for p in model["gate"].parameters()]


def test_frozen_weights_and_empty_groups_are_left_out() -> None:
    """An optimiser refuses a group without a parameter."""
    dense = nn.Linear(2, 2)
    model = deepcopy(dense)
    model.bias.requires_grad_(False)
    hooks = with_fine_tuning(DEFAULT_HOOKS, dense, model, 0.25)
    (only,) = hooks.param_groups(model, 0.002)
    assert [id(p) for p in only["params"]] == [id(model.weight)]


def test_a_method_that_groups_by_itself_decides() -> None:
    """Nor does anything change at the full rate."""
    dense = nn.Linear(2, 2)
    own = replace(DEFAULT_HOOKS, param_groups=lambda model, lr: [])
    assert with_fine_tuning(own, dense, gated(dense), 0.25) is own
    assert with_fine_tuning(DEFAULT_HOOKS, dense, gated(dense), 1.0) is DEFAULT_HOOKS


def test_weights_of_any_format_are_compared() -> None:
    """bfloat16 has no numpy type."""
    dense = nn.Linear(2, 2).to(torch.bfloat16)
    model = gated(dense)
    old, new = with_fine_tuning(DEFAULT_HOOKS, dense, model, 0.5).param_groups(model, 1.0)
    assert (len(old["params"]), len(new["params"])) == (2, 2)
