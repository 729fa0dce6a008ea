"""Training to a total of executed FLOPs (train.flops): how many steps that is.

    FLOPs of the dense start + num_steps x FLOPs of a step <= train.flops

Steps are counted beforehand, on a copy of the model, so that the learning rate's schedule and the
method's `progress` end where the budget does. A step's FLOPs are the mean over the training's
beginning, middle and end, since a method may compute less and less, or the reverse.
"""

from __future__ import annotations

from copy import deepcopy

from torch import nn

from bench import ranks
from bench.meters.flops.counter import count
from bench.plugins.hooks import Hooks
from bench.trial.batches import EndlessBatches
from bench.trial.train import check_batch, training_loss
from bench.trial.trial import Trial
from bench.types import Batch, Recipe, Task, Unsupported

COUNTED_AT = (0.0, 0.5, 1.0)  # of the training
FIRST_COUNTED = 2  # steps from 0: the first fills caches, the second is probed for memory


def counted_steps(num_steps: int) -> list[int]:
    """Which steps of a training are counted, from 0: an early one, the middle and the last."""
    chosen = {FIRST_COUNTED, num_steps // 2, num_steps - 1}
    return sorted(each for each in chosen if FIRST_COUNTED <= each < num_steps)


def count_step(model: nn.Module, hooks: Hooks, task: Task, recipe: Recipe, trial: Trial) -> float:
    """Mean executed FLOPs of a training step, forward and backward, of all ranks together.

    Draws random numbers; `model` is left as it is. Raises Unsupported where an operation has no
    FLOP formula, ValueError as `check_batch` does.
    """
    check_batch(task, recipe)
    model = deepcopy(model).to(trial.device).train()  # a loss may write into its model
    batches = iter(EndlessBatches(task, recipe.batch_size, trial.config.seed))

    def step(batch: Batch, progress: float) -> None:
        with trial.inference():  # the precision of training
            loss = training_loss(model, batch, hooks, task, progress)
        loss.backward()

    counts = [count(step, next(batches).to(trial.device), progress) for progress in COUNTED_AT]
    # Every rank counts its share of the batch; all must take part.
    total = sum(ranks.all_gather(sum(each.total for each in counts)))
    if unknown := sorted({name for each in counts for name in each.ops_without_formula}):
        raise Unsupported(
            f"train.flops needs the FLOPs of a training step, and {', '.join(unknown)} has no "
            "FLOP formula: state train.steps"
        )
    return float(total / len(COUNTED_AT))


def steps_within(budget: float, spent: float, step: float | None = None) -> int:
    """How many steps of `step` FLOPs the budget pays for beside what is `spent`, rounded down.

    Without a step, 0. Raises Unsupported where the start costs more than the budget, or not even
    one step is left.
    """
    if spent > budget:
        raise Unsupported(
            f"the dense start takes {spent:.3g} FLOPs of training, more than train.flops="
            f"{budget:.3g}"
        )
    if step is None:
        return 0
    num_steps = int((budget - spent) // step) if step else 0
    if num_steps == 0:
        raise Unsupported(
            f"train.flops={budget:.3g} leaves {budget - spent:.3g} FLOPs, and a training step "
            f"takes {step:.3g}"
        )
    return num_steps
