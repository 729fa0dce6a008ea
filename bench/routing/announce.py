"""Announcing a decision: what a gate calls, and the decision that it gets back to obey."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from bench.routing.context import here
from bench.routing.decisions import Axis, Cost, Decision

if TYPE_CHECKING:
    from torch import Tensor


def decide(
    name: str,
    *,
    axes: tuple[Axis, ...],
    probabilities: Tensor,
    run: Tensor,
    cost: float | Sequence[float] | Tensor | Cost,
    index: Tensor | None = None,
    tokens: Tensor | None = None,
    eligible: Tensor | None = None,
    past: Callable[[], Tensor | None] | None = None,
    exclusive: bool = False,
    observed_only: bool = False,
) -> Tensor:
    """Announce a decision and return the one to obey (bool, shaped like `run`).

    All as in `Decision`; `cost` is FLOPs of one element, of one element for each unit, or a Cost;
    `past` is called only where the decision is observed.
    Raises ValueError while decisions are observed or forced, where axes, shapes and costs do not
    fit.
    """
    if here.choose is None and here.observation is None and here.at_share is None:
        return run  # nothing observes: a timed pass builds no Decision
    decision = Decision(
        name,
        axes,
        probabilities.detach(),  # a recording must not keep the graph of its pass alive
        run.detach(),
        cost if isinstance(cost, Cost) else _cost_of_elements(cost),
        index,
        tokens,
        eligible,
        past() if past is not None else None,
        exclusive=exclusive,
        observed_only=observed_only,
    )
    return announce(decision).run


def announce(decision: Decision) -> Decision:
    """Announce a decision with a payload, and return the one to obey.

    Its `payload` is None where the harness changed `run`: the method then derives it from `run`.
    Raises ValueError while decisions are observed or forced, where axes, shapes and costs do not
    fit.
    """
    choose = here.choose or here.at_share
    if here.choose is None and here.observation is None:
        # A timed pass: axes and shapes are checked where decisions are observed.
        return decision if choose is None else _override(decision, choose(decision))
    decision.check()
    if choose is not None and not decision.observed_only:
        decision = _override(decision, choose(decision))
    decision.check_eligible()
    if here.observation is not None:
        # After forcing: FLOPs are declared by what runs, not by what the gate preferred.
        here.observation.decisions.append(decision)
    return decision


def _cost_of_elements(cost: float | Sequence[float] | Tensor) -> Cost:
    # Arrays and tensors become numbers of Python: a scalar has `tolist` as well.
    each: Any = cost.tolist() if hasattr(cost, "tolist") else cost
    return Cost(tuple(each) if isinstance(each, list | tuple) else each)


def _override(decision: Decision, answer: Decision | Tensor) -> Decision:
    """`decision` with the `run` of `answer`; what is not eligible never runs."""
    if isinstance(answer, Decision):
        run, payload = answer.run, answer.payload
    else:
        run, payload = answer, None  # the gate's own payload belongs to its own `run`
    if run is decision.run:
        return decision
    run = run if decision.eligible is None else run & decision.eligible
    return replace(decision, run=run, payload=payload)
