"""What a gate chose: along which axes, of which original samples and tokens, at what cost.

    run = decide("block3", axes=TOKENS, probabilities=a, run=a > 0.5, cost=flops_of_a_token)

Nothing about a decision is guessed from its rank or its gate's name: `axes` names every axis.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from torch import Tensor

# What lies along an axis of a decision. The first is always the sample; at most one unit comes
# last: heads and neurons (or blocks of them) run independently of one another, choices are
# alternatives (experts, branches, widths), steps are repetitions of which the first k run.
Axis = Literal["sample", "token", "head", "neurons", "choice", "step"]
UNITS = ("head", "neurons", "choice", "step")
SAMPLES: tuple[Axis, ...] = ("sample",)  # [B]
TOKENS: tuple[Axis, ...] = ("sample", "token")  # [B, T]
SAMPLE_CHOICES: tuple[Axis, ...] = ("sample", "choice")  # [B, G]
TOKEN_CHOICES: tuple[Axis, ...] = ("sample", "token", "choice")  # [B, T, G]


@dataclass(frozen=True)
class Cost:
    """FLOPs that running elements add to a pass, compared with the same elements not running.

    `element`: of one running element; one number for each unit where units differ. `pair`: of each
    ordered pair of running tokens of a sample, as in attention among k tokens. `sample`: of each
    sample of which anything runs, as keys and values of all its visible tokens.
    """

    element: float | tuple[float, ...] = 0.0
    pair: float = 0.0
    sample: float = 0.0


@dataclass
class Decision:
    """What one gate chose in one call. All tensors without gradient.

    `run` bool and `probabilities` are shaped by `axes`, n rows of samples first. `index` [n]: the
    original sample of each row, None for the whole batch in order. `tokens` [n, T]: the original
    position of each token, None for 0..T-1; a network that has dropped or merged tokens passes it.
    `eligible`, bool like `run`: the elements that the gate decides about, None for all; padding and
    elements that have left are not eligible and never run, whatever is forced. `past` [n]: earlier
    tokens that every running token also pairs with (a cache).

    `payload`: what a replay needs besides `run`, shaped like it or with more axes behind, in
    original positions where it names tokens (a merge is a pairing). `exclusive`: exactly one choice
    runs for every element; open gates then take the most expensive, closed ones the cheapest.
    `observed_only`: the result of a computation, not a choice that could be forced (soft weights,
    drafts that a verification accepted).
    """

    name: str
    axes: tuple[Axis, ...]
    probabilities: Tensor
    run: Tensor
    cost: Cost
    index: Tensor | None = None
    tokens: Tensor | None = None
    eligible: Tensor | None = None
    past: Tensor | None = None
    payload: Tensor | None = None
    exclusive: bool = False
    observed_only: bool = False

    @property
    def unit(self) -> Axis | None:
        """The last axis where it is a unit (head, neurons, choice, step); None without one."""
        return self.axes[-1] if self.axes[-1] in UNITS else None

    @property
    def per_token(self) -> bool:
        """Whether there is an axis of tokens."""
        return "token" in self.axes

    def any_unit_runs(self) -> Tensor:
        """Whether any unit runs for an element, bool [n] or [n, T]."""
        return self.run if self.unit is None else self.run.any(-1)

    def costs(self) -> list[float]:
        """FLOPs of one element, for each unit (one number without units)."""
        each = self.cost.element
        if isinstance(each, tuple):
            return list(each)
        return [each] * (1 if self.unit is None else self.run.shape[-1])

    def flops_of_samples(self) -> Tensor:
        """FLOPs (2 x MAC) that this decision declares for each row, float64 [n]."""
        run = self.run.double()  # float32 is exact to 16.8 M only, far below a batch's FLOPs
        spent = run if self.unit is None else run @ run.new_tensor(self.costs())  # [n] or [n, T]
        spent = spent.flatten(1).sum(1) if spent.dim() > 1 else spent  # [n]
        if self.unit is None:
            spent = spent * self.costs()[0]
        running = self.any_unit_runs().double()
        running = running.flatten(1).sum(1) if self.per_token else running  # tokens that run, [n]
        if self.cost.pair:
            # Each running token attends to those that run beside it, itself included.
            seen = running if self.past is None else running + self.past
            spent = spent + self.cost.pair * running * seen
        return spent + self.cost.sample * (running > 0)

    def declared_flops(self) -> float:
        """FLOPs (2 x MAC) that this decision declares."""
        return float(self.flops_of_samples().sum().item())

    def check(self) -> None:
        """Raises ValueError, naming the gate, where axes, shapes and costs do not fit."""
        wrong = _misfit(self)
        if wrong:
            raise ValueError(f"gate {self.name!r}: {wrong}")

    def check_eligible(self) -> None:
        """Raises ValueError, naming the gate, where elements run that are not eligible.

        Of the decision that is obeyed: a gate's own may be overridden by a replay.
        """
        if self.eligible is not None and bool((self.run & ~self.eligible).any()):
            raise ValueError(f"gate {self.name!r}: elements run that are not eligible")


def _misfit(decision: Decision) -> str:
    """What does not fit; empty where everything does. Axes first: the rest is read by them."""
    axes, run = decision.axes, decision.run
    unknown = [axis for axis in axes if axis not in get_args(Axis)]
    if unknown or not axes or axes[0] != "sample" or len(set(axes)) < len(axes):
        return f"axes {axes}: first 'sample', then others of {', '.join(get_args(Axis))}, once each"
    if any(axis in UNITS for axis in axes[:-1]):
        return f"axes {axes}: heads, neurons, choices or steps come last"
    if run.dim() != len(axes):
        return f"run has {run.dim()} axes, and {len(axes)} are named: {axes}"
    if str(run.dtype) != "torch.bool":  # by its name: torch is not imported here
        return f"run is {run.dtype}, not bool"
    if decision.probabilities.shape != run.shape:
        return f"probabilities {list(decision.probabilities.shape)}, run {list(run.shape)}"
    if decision.exclusive and axes[-1] != "choice":
        return "exclusive decisions have choices as their last axis"
    return _misfit_of_costs(decision) or _misfit_of_frame(decision)


def _misfit_of_costs(decision: Decision) -> str:
    run, costs = decision.run, decision.costs()
    if decision.unit is not None and not run.shape[-1]:
        return f"run {list(run.shape)} has no {decision.unit}"
    if len(costs) != (1 if decision.unit is None else run.shape[-1]):
        return f"{len(costs)} costs for {run.shape[-1]} units"
    for cost in (*costs, decision.cost.pair, decision.cost.sample):
        # A whole vector as the cost of every unit would be multiplied as a matrix.
        if not _is_finite(cost):
            return f"cost {cost!r}: finite numbers are needed, of units that differ a tuple"
    return ""


def _is_finite(value: object) -> bool:
    try:
        return math.isfinite(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return False


def _misfit_of_frame(decision: Decision) -> str:
    """What does not fit of the tensors beside `run`: broadcast, they would give wrong numbers."""
    run, eligible, payload = decision.run, decision.eligible, decision.payload
    beside = {
        "index": (decision.index, run.shape[:1]),
        "tokens": (decision.tokens, run.shape[:2]),
        "eligible": (eligible, run.shape),
        "past": (decision.past, run.shape[:1]),
    }
    for name, (tensor, shape) in beside.items():
        if tensor is not None and tensor.shape != shape:
            return f"{name} {list(tensor.shape)}, run {list(run.shape)}"
    for name in ("index", "tokens"):  # a mask would select rows where numbers are meant
        tensor = beside[name][0]
        if tensor is not None and str(tensor.dtype) != "torch.int64":
            return f"{name} is {tensor.dtype}, not int64"
    if payload is not None and payload.shape[: run.dim()] != run.shape:
        return f"payload {list(payload.shape)}, run {list(run.shape)}"
    if eligible is not None and str(eligible.dtype) != "torch.bool":
        return f"eligible is {eligible.dtype}, not bool"
    return ""
