"""Contracts about training: gates learn, skipped parts do not, and a run can be repeated."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from bench import routing
from bench.check.candidate import Candidate
from bench.check.promise import Broken, NotDefined
from bench.check.skipping import masked_path
from bench.plugins import construct

GATE_REGIONS = ("router", "exit_head")
ROUGH = 0.1  # how far bfloat16 may move the logits, as a share of their spread
Gradients = dict[str, Tensor]


class _Reading(TorchFunctionMode):
    """Watches functions while a gate's region is open: which tensors they get, what they give."""

    def __init__(self) -> None:
        super().__init__()
        self.read: set[int] = set()
        self.given: list[Tensor] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if routing.current_region() in GATE_REGIONS:
            for arg in (*args, *(kwargs or {}).values()):
                if isinstance(arg, Tensor):  # of a view, what it shows
                    self.read.add(id(arg if arg._base is None else arg._base))
            if isinstance(result, Tensor) and result.requires_grad:
                self.given.append(result)
        return result


def gates_learn(candidate: Candidate) -> None:
    """A training step's gradients are finite, and every parameter that a gate reads gets one."""
    if not candidate.trains:
        raise NotDefined("training free")
    model = candidate.untrained()
    total: Gradients = {}
    with _Reading() as reading, routing.observe() as seen:
        for seed, progress in enumerate((0.0, 0.5, 1.0)):
            candidate.train(model, num_steps=1)  # what starts at zero gets a chance to leave it
            model.zero_grad()
            candidate.loss(model, candidate.tiny.batch(8, seed), progress).backward()
            for name, gradient in _gradients(model).items():
                if not gradient.isfinite().all():
                    raise Broken(f"the gradient of {name} is not finite at progress {progress}")
                total[name] = total.get(name, torch.zeros_like(gradient)) + gradient.abs()
    gates = [name for name, p in model.named_parameters() if id(p) in reading.read]
    if not (gates and seen.decisions):
        raise NotDefined("no gate with parameters of its own (region 'router')")
    deaf = [name for name in gates if name not in total or not total[name].any()]
    if deaf:
        raise Broken(f"no gradient reaches {', '.join(deaf)}, which a gate decides by")


def skipped_learn_nothing(candidate: Candidate) -> None:
    """Parameters that closed gates leave out of the result get no gradient through it.

    Such a parameter moves the logits of inference when every gate is open, and not when closed.
    Those that a gate decides by learn through the gate, and are left out.
    """
    model, batch = candidate.model, candidate.tiny.batch(6)
    with routing.observe() as seen, routing.force("open"):
        skipped = _moved(model.eval(), model(batch).logits)
    if not seen.decisions:
        raise NotDefined("announces no decision")
    with routing.force("closed"):
        skipped -= _moved(model, model(batch).logits)
    with masked_path(model), routing.force("closed"), _Reading() as reading:
        taught = skipped & _moved(model, model(batch).logits)
        taught -= _moved(model, *reading.given)
    if taught:
        raise Broken(
            f"every gate is closed, and yet {', '.join(sorted(taught))} get a gradient through the "
            "logits: the masked path lets skipped parts through",
            gate=seen.decisions[0].name,
        )


def _moved(model: nn.Module, *outputs: Tensor) -> set[str]:
    """Names of the parameters with a gradient from random directions of `outputs`."""
    generator = torch.Generator().manual_seed(0)
    directions = [torch.randn(out.shape, generator=generator).to(out.dtype) for out in outputs]
    names, parameters = zip(*_trainable(model), strict=True)
    if not any(out.requires_grad for out in outputs):
        return set()
    found = torch.autograd.grad(
        outputs, parameters, directions, allow_unused=True, retain_graph=True
    )
    return {name for name, g in zip(names, found, strict=True) if g is not None and bool(g.any())}


def _trainable(model: nn.Module) -> Iterable[tuple[str, nn.Parameter]]:
    return ((name, p) for name, p in model.named_parameters() if p.requires_grad)


def _gradients(model: nn.Module) -> Gradients:
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def same_seed(candidate: Candidate) -> None:
    """Building and training twice from one seed gives bit-equal weights and buffers."""
    one, two = candidate.model.state_dict(), candidate.made().state_dict()
    different = [key for key in one if not torch.equal(one[key], two[key])]
    if different:
        raise Broken(f"two runs from one seed differ in {', '.join(different[:4])}")


def round_trip(candidate: Candidate) -> None:
    """The settings as a dict and the state_dict give a model with the same answers."""
    settings = dataclasses.asdict(candidate.method)
    try:
        again = dataclasses.replace(candidate, method=construct(type(candidate.method), settings))
    except TypeError as error:
        raise Broken(f"the method cannot be made from its own settings: {error}") from error
    model, batch = candidate.model.eval(), candidate.tiny.batch(5)
    other = again.untrained(seed=9).eval()
    try:
        other.load_state_dict(copy.deepcopy(model.state_dict()), strict=True)
    except RuntimeError as error:
        raise Broken(f"another model refuses the state_dict: {error}") from error
    with torch.no_grad():
        if not torch.equal(other(batch).logits, model(batch).logits):
            raise Broken("a model restored from settings and state_dict gives other answers")


def bf16(candidate: Candidate) -> None:
    """Under bfloat16 autocast a training step is finite, and inference says about the same."""
    model, batch = candidate.model.eval(), candidate.tiny.batch(6)
    with torch.no_grad(), routing.observe() as seen:
        wanted = model(batch).logits
    autocast = torch.autocast("cpu", torch.bfloat16)
    with autocast, torch.no_grad(), routing.replay(seen):
        found = model(batch).logits.float()
    gap = float((found - wanted).abs().mean() / wanted.std())
    if not gap <= ROUGH:
        raise Broken(f"bfloat16 moves the logits by {gap:.0%} of their spread, equal decisions")
    if candidate.trains:
        trained = candidate.untrained().train()
        with autocast:
            loss = candidate.loss(trained, batch)
        loss.backward()
        bad = [name for name, g in _gradients(trained).items() if not g.isfinite().all()]
        if bad or not bool(loss.isfinite()):
            raise Broken(f"a bfloat16 training step is not finite: {', '.join(bad) or 'the loss'}")
