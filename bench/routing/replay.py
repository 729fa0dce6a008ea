"""Observing gates, forcing them open, closed or random, and replaying recorded decisions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace as changed
from typing import TYPE_CHECKING, Literal

from bench.routing.context import here
from bench.routing.decisions import Decision
from bench.routing.observation import Observation

if TYPE_CHECKING:
    from torch import Generator, Tensor

Force = Literal["open", "closed", "random"]
Choose = Callable[[Decision], "Decision | Tensor"]


@contextmanager
def observe() -> Iterator[Observation]:
    """Record every decision made inside."""
    # Observations nest: the innermost records, the outer one continues afterwards.
    before, here.observation = here.observation, Observation()
    try:
        yield here.observation
    finally:
        here.observation = before


@contextmanager
def override(choose: Choose) -> Iterator[None]:
    """Let `choose(decision)` decide for every gate inside; `force` and `replay` are built on it.

    It returns what is to run, or a decision with `run` and `payload`. An inner override replaces
    the outer one.
    """
    before, here.choose = here.choose, choose
    try:
        yield
    finally:
        here.choose = before


def is_forced() -> bool:
    """Whether decisions of this thread are already forced or replayed."""
    return here.choose is not None


@contextmanager
def force(
    how: Force, *, share: float | None = None, generator: Generator | None = None
) -> Iterator[None]:
    """Make every gate run all (`open`), none (`closed`) or a random choice.

    Where exactly one choice runs, open takes the most expensive and closed the cheapest. Random
    keeps the budget: each row's own number of running elements, each choice's number of elements
    where choices are exclusive or steps nested; with `share`, each element runs with that
    probability.
    """
    with override(_force_all(how, share, generator)):
        yield


@contextmanager
def replay(observation: Observation) -> Iterator[None]:
    """Make every gate repeat what was recorded, by gate name and order of calls.

    Raises KeyError inside for a gate, or a further call of one, that was not recorded.
    """
    with override(_repeat(observation)):
        yield


def _force_all(how: Force, share: float | None, generator: Generator | None) -> Choose:
    import torch  # not at the top: reading records imports this package without torch

    def choose(decision: Decision) -> Tensor:
        run = decision.run
        if decision.exclusive and how != "random":
            # All or none would be no choice: a model may compute nothing sensible with either.
            costs = torch.tensor(decision.costs())  # [G]
            only = costs.argmax() if how == "open" else costs.argmin()
            return torch.zeros_like(run).index_fill(-1, only.to(run.device), True)
        if how == "open":
            return torch.ones_like(run)
        if how == "closed":
            return torch.zeros_like(run)
        # Drawn on the CPU, so that a seed means the same decisions on every device.
        noise = torch.rand(run.shape, generator=generator, device="cpu").to(run.device)
        if decision.exclusive and share is not None:
            return torch.zeros_like(run).scatter(-1, noise.argmax(-1, keepdim=True), True)
        if decision.exclusive or decision.unit == "step":
            # Whole rows move: units drawn one by one would break one-of-G and first-k-of-G.
            return _shuffle_rows(run, noise)
        return noise < share if share is not None else _draw_as_many(run, noise)

    return choose


def _shuffle_rows(run: Tensor, noise: Tensor) -> Tensor:
    """The rows of `run` [..., G] in another order: elements take over one another's choices."""
    order = noise[..., 0].flatten().argsort()  # one random number for each row, [n] or [n T]
    return run.flatten(0, -2)[order].view_as(run)


def _draw_as_many(run: Tensor, noise: Tensor) -> Tensor:
    """A random choice with as many running elements in each row (or in all, for [n])."""
    if run.dim() == 1:
        return _draw_as_many(run[None], noise[None])[0]
    rank = noise.argsort(-1).argsort(-1)  # the inverse of a sort is each element's rank
    return rank < run.sum(-1, keepdim=True)


def _repeat(observation: Observation) -> Choose:
    num_calls: dict[str, int] = {}  # by gate, in this replay

    def choose(decision: Decision) -> Decision:
        call = num_calls.get(decision.name, 0)
        num_calls[decision.name] = call + 1
        recorded = observation.named(decision.name)
        if call >= len(recorded):
            raise KeyError(
                f"replay: gate {decision.name!r} decided {call + 1} times, "
                f"but the recording holds {len(recorded)}"
            )
        run = _in_frame(recorded[call].run, recorded[call], decision, False)
        payload = recorded[call].payload
        if payload is not None:
            payload = _in_frame(payload, recorded[call], decision, -1)  # -1 names no token
        return changed(decision, run=run, payload=payload)

    return choose


def _in_frame(values: Tensor, recorded: Decision, current: Decision, fill: float) -> Tensor:
    """`values` of a recorded decision for the samples and tokens of the current one.

    Samples and tokens that the recorded decision does not cover get `fill`: they do not run.
    """
    values = _in_samples(values, recorded.index, current.index, len(current.run), fill)
    if not current.per_token or (recorded.tokens is None and current.tokens is None):
        return values
    before = recorded.tokens
    if before is not None:  # its rows move with those of `values`
        before = _in_samples(before, recorded.index, current.index, len(current.run), 0)
    return _in_tokens(values, before, current.tokens, current.run.shape[1], fill)


def _in_samples(
    values: Tensor, before: Tensor | None, now: Tensor | None, num_rows: int, fill: float
) -> Tensor:
    """Rows of the samples `before` as rows of the samples `now` (None: the whole batch)."""
    if before is None:
        return values if now is None else values[now]
    # A frame that holds every sample named on either side; the whole batch's size is not recorded.
    last = [int(index.max()) + 1 for index in (before, now) if index is not None and len(index)]
    full = values.new_full((max([*last, num_rows]), *values.shape[1:]), fill)
    full[before] = values
    return full[:num_rows] if now is None else full[now]


def _in_tokens(
    values: Tensor, before: Tensor | None, now: Tensor | None, num_tokens: int, fill: float
) -> Tensor:
    """Columns of the tokens `before` [n, S] as columns of the tokens `now` [n, T] (None: all)."""
    if before is not None:
        last = [int(t.max()) + 1 for t in (before, now) if t is not None and t.numel()]
        full = values.new_full((len(values), max([*last, num_tokens]), *values.shape[2:]), fill)
        values = full.scatter(1, _wide(before, values), values)
    return values[:, :num_tokens] if now is None else values.gather(1, _wide(now, values))


def _wide(tokens: Tensor, values: Tensor) -> Tensor:
    """`tokens` [n, T] as an index into `values` [n, S, ...]: [n, T, ...]."""
    extra = values.shape[2:]  # choices of `run`, or the further axes of a payload
    return tokens.view(*tokens.shape, *[1] * len(extra)).expand(*tokens.shape, *extra)
