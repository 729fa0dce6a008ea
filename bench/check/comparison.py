"""Comparing logits and decisions of two passes, with the words for what differs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bench import routing
from bench.check.contract import Broken, NotDefined
from bench.routing import Observation
from bench.types import Batch, Point

CLOSE = 1e-4  # absolute and relative: float32, logits of order one


def run_pass(model: Any, batch: Batch) -> tuple[Tensor, Observation]:
    """Logits and decisions of one pass, in the mode that the model is in."""
    with torch.no_grad(), routing.observe() as seen:
        return model(batch).logits, seen


def are_close(found: Tensor, wanted: Tensor) -> bool:
    """Whether two tensors have one shape and agree up to float32 rounding."""
    same_shape = found.shape == wanted.shape
    return same_shape and torch.allclose(found, wanted, rtol=CLOSE, atol=CLOSE)


def must_agree(found: Tensor, wanted: Tensor, what: str, gate: str | None = None) -> None:
    """Raises Broken with the largest difference unless the tensors are close."""
    if found.shape != wanted.shape:
        raise Broken(f"{what}: shape {tuple(found.shape)} instead of {tuple(wanted.shape)}")
    if not are_close(found, wanted):
        gap = float((found - wanted).abs().max())
        raise Broken(f"{what}: logits differ by up to {gap:.2g}", gate=gate)


def must_decide(seen: Observation) -> None:
    """Raises NotDefined where nothing was decided, or only what cannot be decided otherwise."""
    if not seen.decisions:
        raise NotDefined("announces no decision")
    if all(decision.observed_only for decision in seen.decisions):
        raise NotDefined("its decisions are observed only: there is nothing to skip")


def differing_gate(one: Observation, other: Observation) -> str | None:
    """The first gate that decided differently in the two; None where all agree."""
    # Not strict: after a first difference one pass may have asked more gates than the other.
    for left, right in zip(one.decisions, other.decisions, strict=False):
        if left.name != right.name or not _same_choice(left.run, right.run):
            return left.name
    return None


def _same_choice(left: Tensor, right: Tensor) -> bool:
    return left.shape == right.shape and bool(torch.equal(left, right))


def at(point: Point) -> str:
    """The operating point for a message; "" for the only one."""
    return f" at {', '.join(f'{k}={v}' for k, v in point.items())}" if point else ""
