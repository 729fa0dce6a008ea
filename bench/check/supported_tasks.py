"""On which tiny tasks, with which backbones, a method is tried."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from bench.check.candidate import Candidate
from bench.check.tiny_tasks import TINY, Tiny, tiny_backbones
from bench.types import Unsupported


def candidates(name: str, method: Any, only: Any = None) -> tuple[list[Candidate], dict[str, str]]:
    """`method` on every tiny task that it supports, and the other tasks with its reasons.

    With `only`, a backbone, on no other one: it is what is examined.

    The first backbone that serves both is taken, on images also the first convolutional one; a
    reason is that of the first one tried. What `build` or `convert` raises besides Unsupported
    passes through.
    """
    found: list[Candidate] = []
    refused: dict[str, str] = {}
    backbones = tiny_backbones() if only is None else {name: only}
    cls = None if only is None else type(only)
    for tiny in TINY.values():
        tried = [Candidate(name, method, tiny, each, tried=cls) for each in backbones.values()]
        reasons: list[str] = []
        # A lazy search: the first backbone that takes the method is enough.
        served = next((each for each in tried if _serves(each, reasons)), None)
        if served is None:
            refused[tiny.spec.name] = [*reasons, "no backbone is installed"][0]
            continue
        found.append(served)
        if only is None and tiny.spec.kind == "image":
            # Feature maps have no tokens: a method that works on both has two paths to try.
            label = _convolutional(tiny, backbones)
            other = Candidate(name, method, tiny, backbones.get(label), label)
            if label and other.backbone != served.backbone and _serves(other, []):
                found.append(other)
    return found, refused


def _serves(candidate: Candidate, reasons: list[str]) -> bool:
    """Whether method and backbone take the task; a refusal's reason is added to `reasons`."""
    hooks, spec = candidate.resolved.hooks, candidate.tiny.spec
    torch.manual_seed(0)
    try:
        # An untrained dense model: what is refused does not depend on its weights, and a method
        # that refuses a task would train the largest backbones for nothing.
        if hooks.convert is None:
            hooks.build(spec, candidate.backbone)
        else:
            hooks.convert(candidate.backbone.build(spec).eval(), [candidate.tiny.batch(4)])
    except Unsupported as refusal:
        reasons.append(str(refusal))
        return False
    return True


def _convolutional(tiny: Tiny, backbones: Mapping[str, Any]) -> str:
    """The name of the first backbone that works on feature maps; "" where there is none."""
    for name, backbone in backbones.items():
        try:
            if not getattr(backbone.build(tiny.spec), "tokens", True):
                return name
        except Unsupported:
            continue
    return ""
