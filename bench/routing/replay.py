"""Observing gates, overriding their decisions, and replaying recorded ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace as changed
from typing import TYPE_CHECKING

from bench.routing.context import here
from bench.routing.decisions import Decision
from bench.routing.observation import Observation

if TYPE_CHECKING:
    from torch import Tensor

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
    """Whether decisions of this thread are already forced, replayed or at a stated share."""
    return here.choose is not None or here.at_share is not None


def is_watched() -> bool:
    """Whether decisions of this thread are observed, forced or replayed.

    Where not, nothing reads what is announced: a gate whose decision takes many small operations to
    write down may leave them out, with the same result.
    """
    return here.choose is not None or here.observation is not None


def is_read() -> bool:
    """Whether anything reads decisions of this thread: what observes, forces, replays or shares.

    Where not, `decide` returns the gate's own `run` as it is, and a gate need not call it.
    """
    return is_forced() or here.observation is not None


@contextmanager
def replay(observation: Observation) -> Iterator[None]:
    """Make every gate repeat what was recorded, by gate name and order of calls.

    Samples and tokens that were not recorded do not run. Raises KeyError inside for a gate, or a
    further call of one, that was not recorded; ValueError where it decides about another shape.
    """
    with override(_repeat(observation)):
        yield


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
        run = _in_frame(recorded[call].run, recorded[call], decision, 0)
        if run.shape != decision.run.shape:  # another batch or model: the rest would broadcast it
            raise ValueError(
                f"replay: gate {decision.name!r} was recorded as {list(run.shape)}, "
                f"and decides {list(decision.run.shape)}"
            )
        payload = recorded[call].payload
        if payload is not None:
            names_none = -1 if payload.dtype.is_signed else 0  # -1 names no token
            payload = _in_frame(payload, recorded[call], decision, names_none)
        return changed(decision, run=run, payload=payload)

    return choose


def _in_frame(values: Tensor, recorded: Decision, current: Decision, fill: float) -> Tensor:
    """`values` of a recorded decision for the samples and tokens of the current one.

    Samples and tokens that the recorded decision does not cover get `fill`: they do not run.
    """
    values = _in_samples(values, recorded.index, current.index, len(current.run), fill)
    if not (current.per_token and recorded.per_token) or _same(recorded.tokens, current.tokens):
        return values
    before = recorded.tokens
    if before is not None:  # its rows move with those of `values`
        before = _in_samples(before, recorded.index, current.index, len(current.run), 0)
    return _in_tokens(values, before, current.tokens, current.run.shape[1], fill)


def _same(before: Tensor | None, now: Tensor | None) -> bool:
    """Whether both frames are equal. Rows that share an original stay apart only in this case."""
    if before is None or now is None:
        return before is now
    return before.shape == now.shape and bool((before == now).all())


def _in_samples(
    values: Tensor, before: Tensor | None, now: Tensor | None, num_rows: int, fill: float
) -> Tensor:
    """Rows of the samples `before` as rows of the samples `now` (None: the whole batch)."""
    if _same(before, now):
        return values
    if before is None:
        before = _all_of(now, len(values))
    # A frame that holds every sample named on either side; the whole batch's size is not recorded.
    last = [int(index.max()) + 1 for index in (before, now) if index is not None and len(index)]
    full = values.new_full((max([*last, num_rows]), *values.shape[1:]), fill)
    full[before] = values
    return full[:num_rows] if now is None else full[now]


def _in_tokens(
    values: Tensor, before: Tensor | None, now: Tensor | None, num_tokens: int, fill: float
) -> Tensor:
    """Columns of the tokens `before` [n, S] as columns of the tokens `now` [n, T] (None: all)."""
    if before is None:
        before = _all_of(now, values.shape[1]).expand(values.shape[:2])
    last = [int(t.max()) + 1 for t in (before, now) if t is not None and t.numel()]
    full = values.new_full((len(values), max([*last, num_tokens]), *values.shape[2:]), fill)
    values = full.scatter(1, _wide(before, values), values)
    return values[:, :num_tokens] if now is None else values.gather(1, _wide(now, values))


def _all_of(like: Tensor | None, number: int) -> Tensor:
    """0 to `number` - 1, on the device of `like`."""
    import torch

    return torch.arange(number, device=None if like is None else like.device)


def _wide(tokens: Tensor, values: Tensor) -> Tensor:
    """`tokens` [n, T] as an index into `values` [n, S, ...]: [n, T, ...]."""
    extra = values.shape[2:]  # choices of `run`, or the further axes of a payload
    return tokens.view(*tokens.shape, *[1] * len(extra)).expand(*tokens.shape, *extra)
