"""Contracts about skipping: it changes no result, and works with any decision."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from bench import routing
from bench.check.candidate import Candidate
from bench.check.comparison import are_close, at, must_agree
from bench.check.contract import Broken, NotDefined
from bench.check.function_modes import refusing_empty_products
from bench.check.masked_path import masked_path
from bench.check.source_lines import current_line


def open_is_dense(candidate: Candidate) -> None:
    """A converted model with every gate open is the dense one, and leaves that as it was."""
    convert = candidate.resolved.hooks.convert
    if convert is None:
        raise NotDefined("built from scratch, not from a dense model")
    dense, batch = candidate.dense(), candidate.tiny.batch(5)
    before = copy.deepcopy(dense.state_dict())
    torch.manual_seed(0)
    model = convert(dense, [candidate.tiny.batch(4)]).eval()
    # The dense model is shared by all methods of a task: changing it would change its baseline.
    for key, value in dense.eval().state_dict().items():
        if not torch.equal(value, before[key]):
            raise Broken(f"convert changed the dense model's {key}: it must work on a copy")
    with torch.no_grad(), routing.force("open"):
        opened, wanted = model(batch).logits, dense(batch).logits
    if candidate.resolved.flags.open_is_dense:
        must_agree(opened, wanted, "with every gate open the model is not the dense one")
    elif not are_close(opened, wanted):  # undeclared: mixtures and scaled blocks never are
        raise NotDefined("open gates are another model (open_is_dense is not declared)")


def equals_masking(candidate: Candidate) -> None:
    """What inference skips equals the training path with the same decisions replayed."""
    batch = candidate.tiny.batch(6)
    for point, model in candidate.at_points():
        for how, choosing in _choices():
            with choosing, torch.no_grad(), routing.observe() as seen:
                skipped = model.eval()(batch).logits
            # The masked path computes everything, and multiplies by the same decisions.
            with masked_path(model), torch.no_grad(), routing.replay(seen):
                masked = model(batch).logits
            what = f"inference and training disagree on {how} decisions{at(point)}"
            gate = seen.decisions[0].name if seen.decisions else None
            must_agree(skipped, masked, what, gate)


def _choices() -> Iterator[tuple[str, AbstractContextManager[None]]]:
    """The gates' own decisions, and random ones."""
    yield "its own", nullcontext()
    # After four steps many gates are still always open: random decisions reach the other paths.
    yield "random", at_random(0.5)


def at_random(share: float) -> AbstractContextManager[None]:
    """Every element runs with probability `share`, by the same draw each time."""
    return routing.force("random", share=share, generator=torch.Generator().manual_seed(1))


def never_empty(candidate: Candidate) -> None:
    """Nothing is called on an empty tensor and all logits are finite, whatever is decided."""
    # An empty call costs a kernel launch for nothing, and some kernels reject it on a GPU.
    for point, model in candidate.at_points():
        for how in ("own", "open", "closed", "random"):
            for size in (1, 3):  # alone, whole branches get no sample at all
                with _forced(how), _refusing_empty(candidate, how), torch.no_grad():
                    logits = model.eval()(candidate.tiny.batch(size)).logits
                if not logits.isfinite().all():
                    where = f"{how} decisions, batch of {size}{at(point)}"
                    raise Broken(f"{where}: logits are not finite")


def _forced(how: Any) -> AbstractContextManager[None]:
    if how == "own":
        return nullcontext()
    return at_random(0.3) if how == "random" else routing.force(how)


@contextmanager
def _refusing_empty(candidate: Candidate, how: str) -> Iterator[None]:
    """Every module, and every product of matrices, refuses tensors without elements."""

    def refuse(module: nn.Module, args: tuple[Any, ...]) -> None:
        if any(isinstance(arg, Tensor) and arg.numel() == 0 for arg in args):
            raise Broken(
                f"{how} decisions: {type(module).__name__} is called on nothing",
                line=current_line(candidate.cls),
            )

    # Hooks see modules; products of functions, such as F.linear, are seen by the function mode.
    handles = [m.register_forward_pre_hook(refuse) for m in candidate.model.modules()]
    try:
        with refusing_empty_products(how, candidate.cls):
            yield
    finally:
        for handle in handles:
            handle.remove()
