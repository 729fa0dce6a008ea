"""The recipe that a model is trained with: the task's, the experiment's, and a share of both."""

from __future__ import annotations

from bench.config import TrainConfig
from bench.trial.train import resolve_recipe
from bench.types import Recipe

TASK = Recipe(steps=15, batch_size=8, lr=0.002)


def test_the_experiment_overrides_the_task() -> None:
    """What is null stays the task's own."""
    found = resolve_recipe(TASK, TrainConfig(steps=100, lr=0.5))
    assert (found.steps, found.batch_size, found.lr) == (100, 8, 0.5)


def test_a_share_of_the_steps_is_rounded_up() -> None:
    """0.1 of 15 steps are two."""
    assert resolve_recipe(TASK, TrainConfig(), 0.1).steps == 2


def test_fine_tuning_has_a_rate_of_its_own() -> None:
    """0.25 of 0.002 where a trained dense model is the start; the dense model keeps 0.002."""
    config = TrainConfig(fine_tune_lr_share=0.25)
    assert resolve_recipe(TASK, config, is_fine_tuned=True).lr == 0.0005
    assert resolve_recipe(TASK, config).lr == 0.002
