"""What a conditional module shares with the harness: regions, decisions and FLOP formulas.

A method calls `decide(...)` wherever it chooses and obeys what comes back. Usually that is its own
choice. The harness can watch (`observe`), force gates open, closed or random (`force`), or replay
what was recorded (`replay`): that makes "skipping equals masking" and "a sample alone equals the
same sample in a batch" testable for every method.

    with routing.observe() as seen:
        model(batch)
    with routing.replay(seen):
        model.train()(batch)          # the masked path takes the same decisions

Frames: the first dimension of a decision is always a sample of the original batch. A call on a
compacted batch passes `index`, the original sample of each row; unreached samples count as not run.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import Generator, Tensor

REGIONS = ("backbone", "router", "dispatch", "expert", "combine", "exit_head")
GATE_REGIONS = ("router", "exit_head")  # where it is decided what runs
Force = Literal["open", "closed", "random"]
# How far the executed saving of a batch may fall short of what its decisions declare, as a share of
# all FLOPs: beyond that a method is said to mask, or to pad.
SHORTFALL = 0.05


@dataclass
class Decision:
    """What one gate chose in one call.

    `probabilities` and `run` are shaped alike: samples [n], tokens [n, T] or token x expert
    [n, T, E]; `cost` is the FLOPs of one element when it runs; `index` [n] names the original
    samples, None for the whole batch in order.
    """

    name: str
    probabilities: Tensor
    run: Tensor
    cost: float
    index: Tensor | None = None

    def declared_flops(self) -> float:
        """FLOPs that this decision says it spends."""
        return float(self.run.sum().item()) * self.cost


@dataclass
class Observation:
    """Every decision of the calls that were watched, in call order."""

    decisions: list[Decision] = field(default_factory=list)

    def named(self, name: str) -> list[Decision]:
        """The decisions of one gate, in call order."""
        return [d for d in self.decisions if d.name == name]

    def select(self, index: Tensor) -> Observation:
        """The same decisions for some samples only: sample index[i] becomes sample i."""
        return Observation([_select(decision, index) for decision in self.decisions])

    def declared_flops(self) -> float:
        """FLOPs that the decisions say were spent."""
        return sum(decision.declared_flops() for decision in self.decisions)


@dataclass
class _Routing(threading.local):
    """Per thread: two threads measuring two models must not hear each other."""

    regions: list[str] = field(default_factory=list)
    observation: Observation | None = None
    choose: Callable[[Decision], Tensor] | None = None
    at_border: Callable[[str], None] | None = None


_here = _Routing()


def decide(
    name: str, *, probabilities: Tensor, run: Tensor, cost: float, index: Tensor | None = None
) -> Tensor:
    """Announce a decision and return the one to obey (bool, shaped like `run`).

    `probabilities`: what the gate believes, `run`: what it would do, `cost`: FLOPs of one element
    when it runs, `index` [n]: the original sample of each row on a compacted batch.
    """
    if _here.choose is None and _here.observation is None:
        return run
    decision = Decision(name, probabilities.detach(), run.detach(), cost, index)
    if _here.choose is not None:
        decision.run = _here.choose(decision)
    if _here.observation is not None:
        _here.observation.decisions.append(decision)
    return decision.run


@contextmanager
def region(name: str) -> Iterator[None]:
    """Name the work inside: backbone, router, dispatch, expert, combine or exit_head.

    Raises ValueError for another name, which no table would show.
    """
    if name not in REGIONS:
        raise ValueError(f"unknown region {name!r}: choices: {', '.join(REGIONS)}")
    _here.regions.append(name)
    _tell_border()
    try:
        yield
    finally:
        _here.regions.pop()
        _tell_border()


def current_region() -> str:
    """The innermost region of this thread; `backbone` outside any."""
    return _here.regions[-1] if _here.regions else "backbone"


@contextmanager
def watch_regions(at_border: Callable[[str], None]) -> Iterator[None]:
    """Call `at_border(region)` whenever this thread enters another region, on leaving one too."""
    before, _here.at_border = _here.at_border, at_border
    try:
        yield
    finally:
        _here.at_border = before


def _tell_border() -> None:
    if _here.at_border is not None:
        _here.at_border(current_region())


@contextmanager
def observe() -> Iterator[Observation]:
    """Record every decision made inside."""
    before, _here.observation = _here.observation, Observation()
    try:
        yield _here.observation
    finally:
        _here.observation = before


@contextmanager
def force(
    how: Force, *, share: float | None = None, generator: Generator | None = None
) -> Iterator[None]:
    """Make every gate run all (`open`), none (`closed`) or a random choice.

    Random keeps each row's own number of running elements, or runs each with probability `share`.
    """
    with choosing(_forced(how, share, generator)):
        yield


@contextmanager
def replay(observation: Observation) -> Iterator[None]:
    """Make every gate repeat what was recorded, by gate name and order of calls.

    Raises KeyError inside, when a gate asks that was not recorded.
    """
    with choosing(_replayed(observation)):
        yield


def is_forced() -> bool:
    """Whether somebody already chooses for the gates (`force` or `replay`) in this thread."""
    return _here.choose is not None


@contextmanager
def choosing(choose: Callable[[Decision], Tensor]) -> Iterator[None]:
    """Let `choose(decision)` answer every gate inside: what `force` and `replay` are made of."""
    before, _here.choose = _here.choose, choose
    try:
        yield
    finally:
        _here.choose = before


def _forced(
    how: Force, share: float | None, generator: Generator | None
) -> Callable[[Decision], Tensor]:
    import torch

    def choose(decision: Decision) -> Tensor:
        run = decision.run
        if how == "open":
            return torch.ones_like(run)
        if how == "closed":
            return torch.zeros_like(run)
        noise = torch.rand(run.shape, generator=generator, device="cpu").to(run.device)
        if share is not None:
            return noise < share
        return _same_counts(run, noise)

    return choose


def _same_counts(run: Tensor, noise: Tensor) -> Tensor:
    """A random choice with as many running elements in each row (or in all, for [n])."""
    if run.dim() == 1:
        return _same_counts(run[None], noise[None])[0]
    rank = noise.argsort(-1).argsort(-1)
    return rank < run.sum(-1, keepdim=True)


def _replayed(observation: Observation) -> Callable[[Decision], Tensor]:
    asked: dict[str, int] = {}

    def choose(decision: Decision) -> Tensor:
        call = asked.get(decision.name, 0)
        asked[decision.name] = call + 1
        recorded = observation.named(decision.name)
        if call >= len(recorded):
            raise KeyError(
                f"replay: gate {decision.name!r} was asked {call + 1} times, "
                f"but the recording holds {len(recorded)}"
            )
        return _in_frame(recorded[call], decision)

    return choose


def _in_frame(recorded: Decision, asking: Decision) -> Tensor:
    """The recorded choice for the samples that ask; samples it did not reach do not run."""
    if recorded.index is None:
        return recorded.run if asking.index is None else recorded.run[asking.index]
    top = int(recorded.index.max()) + 1 if recorded.index.numel() else 0
    if asking.index is not None and asking.index.numel():
        top = max(top, int(asking.index.max()) + 1)
    full = recorded.run.new_zeros((max(top, asking.run.shape[0]), *recorded.run.shape[1:]))
    full[recorded.index] = recorded.run
    return full[: asking.run.shape[0]] if asking.index is None else full[asking.index]


def _select(decision: Decision, index: Tensor) -> Decision:
    if decision.index is None:
        return Decision(
            decision.name,
            decision.probabilities[index],
            decision.run[index],
            decision.cost,
        )
    import torch

    rows = [(decision.index == sample).nonzero().flatten() for sample in index]
    new = torch.cat([torch.full_like(r, i) for i, r in enumerate(rows)]) if rows else index
    old = torch.cat(rows) if rows else index
    return Decision(
        decision.name, decision.probabilities[old], decision.run[old], decision.cost, new
    )


Formula = Callable[..., int]
_formulas: dict[Any, Formula] = {}


def register_formula(op: Any, formula: Formula) -> None:
    """Tell the FLOP meter what a custom op costs.

    `op` is an OpOverloadPacket or OpOverload such as `torch.ops.mylib.fused_experts`;
    `formula(args, kwargs, output) -> int` returns executed FLOPs (2 x MAC) of one call. Only for
    ops that the meter does not know: it refuses to be told what it counts itself. Raises TypeError
    for an op that is a name, or a formula that cannot be called.
    """
    if isinstance(op, str) or not callable(op):
        raise TypeError(
            f"a formula belongs to an op such as torch.ops.mylib.experts, not to {op!r}"
        )
    if not callable(formula):
        raise TypeError(f"the formula of {op} is {formula!r}, which cannot be called")
    _formulas[op] = formula


def formulas() -> dict[Any, Formula]:
    """The registered formulas by op (a copy)."""
    return dict(_formulas)
