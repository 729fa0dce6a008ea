"""Contracts about skipping: it changes nothing, it is real, and it survives any decision."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bench import routing
from bench.check.candidate import Candidate
from bench.check.promise import Broken, NotDefined, are_close, must_agree, must_decide
from bench.check.sites import current_line
from bench.check.watching import refusing_empty_products, staying_in_torch
from bench.meters.flops import count
from bench.routing import Observation
from bench.types import Batch, Point

LINEAR = 0.01  # how far executed FLOPs may be from the declared ones, as a share of them


def open_is_dense(candidate: Candidate) -> None:
    """A converted model with every gate open answers as the dense one, and leaves it as it was."""
    if not hasattr(candidate.method, "convert"):
        raise NotDefined("built from scratch, not from a dense model")
    dense, batch = candidate.dense(), candidate.tiny.batch(5)
    before = copy.deepcopy(dense.state_dict())
    torch.manual_seed(0)
    model = candidate.method.convert(dense, [candidate.tiny.batch(4)]).eval()
    for key, value in dense.eval().state_dict().items():
        if not torch.equal(value, before[key]):
            raise Broken(f"convert changed the dense model's {key}: it must work on a copy")
    with torch.no_grad(), routing.force("open"):
        opened, wanted = model(batch).logits, dense(batch).logits
    if getattr(candidate.method, "open_is_dense", False):
        must_agree(opened, wanted, "with every gate open the model is not the dense one")
    elif not are_close(opened, wanted):
        raise NotDefined("open gates are another model (open_is_dense is not declared)")


def is_masking(candidate: Candidate) -> None:
    """What inference skips equals the training path with the same decisions replayed."""
    batch = candidate.tiny.batch(6)
    for point, model in candidate.at_points():
        for how, choosing in _choices():
            with choosing, torch.no_grad(), routing.observe() as seen:
                skipped = model.eval()(batch).logits
            with masked_path(model), torch.no_grad(), routing.replay(seen):
                masked = model(batch).logits
            what = f"inference and training disagree on {how} decisions{_at(point)}"
            gate = seen.decisions[0].name if seen.decisions else None
            must_agree(skipped, masked, what, gate)


@contextmanager
def masked_path(model: nn.Module) -> Iterator[nn.Module]:
    """The model in training mode, without what makes training differ besides masking.

    Normalisation by batch statistics and dropout stay as at inference; afterwards everything,
    buffers included, is as before.
    """
    before = copy.deepcopy(model.state_dict())
    model.train()
    for module in model.modules():
        if isinstance(module, (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)):
            module.eval()
    try:
        yield model
    finally:
        model.load_state_dict(before)
        model.eval()


def _choices() -> Iterator[tuple[str, AbstractContextManager[None]]]:
    """The gates' own decisions, and random ones: a gate that is always open proves little."""
    yield "its own", nullcontext()
    yield "random", _at_random(0.5)


def _at_random(share: float) -> AbstractContextManager[None]:
    return routing.force("random", share=share, generator=torch.Generator().manual_seed(1))


@dataclass(frozen=True)
class Spent:
    """One pass: FLOPs executed, FLOPs that its decisions declare, and the decisions."""

    executed: int
    declared: float
    seen: Observation


def spend(candidate: Candidate, model: Any, batch: Batch) -> Spent:
    """Count one pass. Raises Broken for an operation that nobody can count, torch's or not."""
    staying: AbstractContextManager[Any] = staying_in_torch(type(candidate.method))
    if getattr(candidate.method, "reads_targets", False):
        staying = nullcontext()  # hindsight knows a sample by its bytes
        with torch.inference_mode():
            model(batch)  # it searches when it first meets a sample, and that is no route
    with torch.inference_mode(), routing.observe() as seen, staying:
        counted = count(model, batch)
    if counted.unknown_ops:
        names = ", ".join(sorted(counted.unknown_ops))
        raise Broken(f"{names}: no FLOP formula (bench.routing.register_formula adds one)")
    return Spent(counted.total, candidate.declared_flops(model, seen), seen)


def executed_is_declared(candidate: Candidate) -> None:
    """FLOPs above those with closed gates are the declared ones; in a batch the saving is real."""
    alone, batch = candidate.tiny.batch(1, 7), candidate.tiny.batch(6)
    for point, model in candidate.at_points():
        _declares_truly(candidate, model, alone, f"its own{_at(point)}")
        _saves_in_a_batch(candidate, model, batch, f"its own decisions{_at(point)} save")
    with _at_random(0.5):
        _declares_truly(candidate, candidate.model, alone, "random")
        _saves_in_a_batch(candidate, candidate.model, batch, "half of the decisions save")


def _declares_truly(candidate: Candidate, model: Any, batch: Batch, how: str) -> None:
    own = spend(candidate, model, batch)
    must_decide(own.seen)
    with routing.force("closed"):
        closed = spend(candidate, model, batch)
    executed = own.executed - closed.executed
    if abs(executed - own.declared) > LINEAR * max(own.declared, abs(executed)):
        raise Broken(
            f"a sample alone, {how} decisions: they declare {own.declared:,.0f} FLOPs, but "
            f"{executed:,} are executed above the {closed.executed:,} with every gate closed"
            + (" (computed and masked, or decide's answer is not obeyed)" if not executed else ""),
            gate=own.seen.decisions[0].name,
        )


def _saves_in_a_batch(candidate: Candidate, model: Any, batch: Batch, what: str) -> None:
    own = spend(candidate, model, batch)
    with routing.force("open"):
        opened = spend(candidate, model, batch)
    declared = (opened.declared - own.declared) / opened.executed
    executed = (opened.executed - own.executed) / opened.executed
    if executed < declared - routing.SHORTFALL:
        raise Broken(
            f"masked: in a batch of {len(batch)} {what} {declared:.0%} of the FLOPs by their own "
            f"account, and {executed:.0%} by the count",
            gate=own.seen.decisions[0].name,
        )


def never_empty(candidate: Candidate) -> None:
    """Nothing is called on an empty tensor and all logits are finite, whatever is decided."""
    for how in ("own", "open", "closed", "random"):
        for size in (1, 3):
            with _forced(how), _refusing_empty(candidate, how), torch.no_grad():
                logits = candidate.model.eval()(candidate.tiny.batch(size)).logits
            if not logits.isfinite().all():
                raise Broken(f"{how} decisions, batch of {size}: logits are not finite")


def _forced(how: Any) -> AbstractContextManager[None]:
    if how == "own":
        return nullcontext()
    return _at_random(0.3) if how == "random" else routing.force(how)


@contextmanager
def _refusing_empty(candidate: Candidate, how: str) -> Iterator[None]:
    """Every module, and every product of matrices, refuses tensors without elements."""

    def refuse(module: nn.Module, args: tuple[Any, ...]) -> None:
        if any(isinstance(arg, Tensor) and arg.numel() == 0 for arg in args):
            raise Broken(
                f"{how} decisions: {type(module).__name__} is called on nothing",
                line=current_line(type(candidate.method)),
            )

    handles = [m.register_forward_pre_hook(refuse) for m in candidate.model.modules()]
    try:
        with refusing_empty_products(how, type(candidate.method)):
            yield
    finally:
        for handle in handles:
            handle.remove()


def _at(point: Point) -> str:
    return f" at {', '.join(f'{k}={v}' for k, v in point.items())}" if point else ""
