"""The control for deciding: another method's model with the best decisions in hindsight.

What a router could be worth at most is the distance to this control. For every sample it takes the
cheapest route whose answer is right, and the cheapest of all where none is. It must read the
targets to know, so its quality is no result: it is the ceiling of the method it controls.

Chains of gates, as in early exit, have one route per exit, and all are tried. Gates that decide
independently have exponentially many: up to 64 are all tried, beyond that one gate after the other
from the last to the first, each with the best so far (a lower bound of the ceiling). Decisions
about single tokens share one target among all tokens of a sample and are not supported.
"""

from __future__ import annotations

import itertools
import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any

import torch
from torch import Tensor, nn

from bench import routing
from bench.routing import SAMPLE_CHOICES, SAMPLES, Cost, Decision, Observation
from bench.types import Batch, TaskSpec, Unsupported

Route = dict[str, bool | tuple[bool, ...]]  # what each gate does with one sample
MOST_ROUTES = 64  # so many are all tried
RIGHT = 1e15  # worth more than all the FLOPs that a sample can save


@dataclass
class Oracle:
    """Method `of` with its default settings, trained as it is, deciding in hindsight at inference.

    A route is searched when a sample is first met and remembered, so that later passes execute the
    route alone. Has one operating point.
    """

    # Hindsight decides at inference: settings and thresholds of the other method have no meaning.
    points = set_point = calibrate = None

    of: str = "early_exit"
    reads_targets = True

    def __post_init__(self) -> None:
        """Raises ValueError where no method is called `of`, or it is this one."""
        doors = {door.name: door for door in entry_points(group="condbench.methods")}
        if self.of not in doors or doors[self.of].value.endswith(f":{type(self).__name__}"):
            raise ValueError(f"no other method is called {self.of!r}: one of {', '.join(doors)}")
        self.inner = doors[self.of].load()()

    def wrap(self, model: nn.Module, spec: TaskSpec) -> nn.Module:
        """The other method's model with hindsight. Raises Unsupported where there is none."""
        return with_hindsight(model, spec)


def with_hindsight(model: nn.Module, spec: TaskSpec) -> nn.Module:
    """`model` deciding in hindsight in inference mode.

    Raises Unsupported unless it decides about whole samples, each with one class to get right.
    """
    if spec.causal or spec.kind == "seq2seq":
        raise Unsupported("hindsight needs one class per sample: a route has many targets here")
    hindsight = Hindsight(choices(model, spec))
    model.register_forward_pre_hook(hindsight.begin)
    model.register_forward_hook(hindsight.end, always_call=True)
    return model


def choices(model: nn.Module, spec: TaskSpec) -> list[list[Route]]:
    """What can be chosen: for each choice its alternatives, the gates that they set.

    A chain of gates is one choice (how many run), every other gate is one: open or closed, or which
    of its alternatives runs. With few routes in all, the whole route is one. Raises Unsupported for
    gates on tokens or independent units, and where nothing is decided.
    """
    was_training = model.training
    with torch.no_grad(), routing.observe() as opened, routing.force("open"):
        model.eval()(_blank(spec))
    with torch.no_grad(), routing.observe() as closed, routing.force("closed"):
        model(_blank(spec))
    model.train(was_training)
    if not opened.decisions:
        raise Unsupported("the method announces no decision: there is nothing to know in hindsight")
    _refuse_many_routes(opened.decisions)
    names = [decision.name for decision in opened.decisions]
    if len(closed.decisions) < len(names):  # the first closed gate ends the pass
        return [[_first(names, depth) for depth in range(len(names) + 1)]]
    found = [_alternatives(decision) for decision in opened.decisions]
    if math.prod(map(len, found)) > MOST_ROUTES:
        return found
    routes = itertools.product(*found)
    return [[{gate: run for part in route for gate, run in part.items()} for route in routes]]


def _refuse_many_routes(decisions: list[Decision]) -> None:
    for decision in decisions:
        if decision.per_token:
            raise Unsupported("decides about tokens: their routes are too many to try")
        if decision.unit is not None and not decision.exclusive:
            raise Unsupported(
                f"decides about every {decision.unit}: the routes are too many to try"
            )


def _first(names: list[str], depth: int) -> Route:
    return {name: number < depth for number, name in enumerate(names)}


def _alternatives(decision: Decision) -> list[Route]:
    """What one gate can do with one sample."""
    if not decision.exclusive:
        return [{decision.name: False}, {decision.name: True}]
    numbers = range(decision.run.shape[-1])
    return [{decision.name: tuple(k == chosen for k in numbers)} for chosen in numbers]


def _blank(spec: TaskSpec) -> Batch:
    """One sample of zeros."""
    shape = (1, *spec.input_shape)
    inputs = torch.zeros(shape, dtype=torch.long if spec.kind == "tokens" else torch.float32)
    return Batch(inputs, torch.zeros(1, dtype=torch.long))


class Hindsight:
    """Hooks around a model's forward that replay every sample's best route."""

    def __init__(self, choices: list[list[Route]]) -> None:
        self.choices = choices
        self.known: dict[bytes, Route] = {}
        self._open: list[AbstractContextManager[None]] = []

    def begin(self, model: nn.Module, args: tuple[Batch]) -> None:
        """Hindsight at inference only, and only where nobody else decides."""
        context: AbstractContextManager[None] = nullcontext()
        if not (model.training or routing.is_forced()):
            context = routing.replay(
                _observation(self.routes(model, args[0]), args[0].inputs.device)
            )
        context.__enter__()
        self._open.append(context)

    def end(self, model: nn.Module, args: tuple[Batch], output: Any) -> None:
        """Also called when the forward pass failed."""
        self._open.pop().__exit__(None, None, None)

    def routes(self, model: nn.Module, batch: Batch) -> list[Route]:
        """Each sample's route, searched where it is met for the first time."""
        keys = [_content(batch, sample) for sample in range(len(batch))]
        unknown = [sample for sample, key in enumerate(keys) if key not in self.known]
        if unknown:
            rows = torch.tensor(unknown, device=batch.inputs.device)
            found = self._search(model, batch.select(rows))
            self.known |= {
                keys[sample]: route for sample, route in zip(unknown, found, strict=True)
            }
        return [self.known[key] for key in keys]

    @torch.no_grad()
    def _search(self, model: nn.Module, batch: Batch) -> list[Route]:
        """For each sample the cheapest route that is right, choice by choice from the last."""
        best: list[Route] = [self._dearest() for _ in range(len(batch))]
        for alternatives in reversed(self.choices):
            scores = []
            for alternative in alternatives:
                routes = [{**route, **alternative} for route in best]
                scores.append(_score(model, batch, _observation(routes, batch.inputs.device)))
            chosen = torch.stack(scores).argmax(0).tolist()  # the first of equals
            best = [{**r, **alternatives[k]} for r, k in zip(best, chosen, strict=True)]
        return best

    def _dearest(self) -> Route:
        """Where the search begins: every choice at its last alternative."""
        return {name: run for options in self.choices for name, run in options[-1].items()}


def _observation(routes: list[Route], device: torch.device) -> Observation:
    """The decisions of every gate about the samples that take these routes."""
    decisions = []
    for name in routes[0]:
        run = torch.tensor([route[name] for route in routes], device=device)
        axes = SAMPLES if run.dim() == 1 else SAMPLE_CHOICES
        decisions.append(Decision(name, axes, run.float(), run, Cost()))
    return Observation(decisions)


def _score(model: nn.Module, batch: Batch, tried: Observation) -> Tensor:
    """Higher is better, [B]: being right first, then few FLOPs."""
    with routing.replay(tried), routing.observe() as seen:
        logits = model(batch).logits
    spent = torch.zeros(len(batch), dtype=torch.float64, device=logits.device)
    for decision in seen.decisions:
        flops = decision.flops_of_samples()
        index = decision.index
        spent = spent + flops if index is None else spent.index_add(0, index, flops)
    return RIGHT * (logits.argmax(-1) == batch.targets) - spent


def _content(batch: Batch, sample: int) -> bytes:
    parts = (batch.inputs[sample], batch.targets[sample])
    return b"".join(part.cpu().numpy().tobytes() for part in parts)
