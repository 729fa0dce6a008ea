"""The control for deciding: another method's model with the best decisions in hindsight.

The distance to this control is the most that better decisions could gain. For every sample it takes
the cheapest route whose prediction is right, and the cheapest of all where none is. It reads the
targets, so its quality is not comparable: it is an oracle upper bound for the method it controls.

Chains of gates, as in early exit, have one route per exit, and all are tried. Gates that decide
independently have exponentially many: up to 64 are all tried, beyond that one gate after the other
from the last to the first, each with the best so far: the result is then a lower bound of the
oracle. Decisions about single tokens share one target among all tokens of a sample and are not
supported.
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

Route = dict[str, bool | tuple[bool, ...]]  # gate -> its decision about one sample
MAX_ROUTES = 64  # up to here every route is tried
RIGHT = 1e15  # score of a right prediction: more than all the FLOPs that a sample can save


@dataclass
class Oracle:
    """Method `of` with its default settings and training, deciding in hindsight at inference.

    A sample's route is searched in its first pass and stored, so that later passes execute the
    route alone. Has one operating point.
    """

    # Hindsight decides at inference: operating points and thresholds of the other method have no
    # effect. None leaves a hook of the inner method out.
    points = set_point = calibrate = None

    of: str = "early_exit"
    reads_targets = True

    def __post_init__(self) -> None:
        """Raises ValueError where `of` names no method, or this one."""
        # By entry point, so that an installed plugin's method can be controlled as well.
        found = {point.name: point for point in entry_points(group="condbench.methods")}
        if self.of not in found or found[self.of].value.endswith(f":{type(self).__name__}"):
            raise ValueError(f"no other method is called {self.of!r}: one of {', '.join(found)}")
        self.inner = found[self.of].load()()

    def wrap(self, model: nn.Module, spec: TaskSpec) -> nn.Module:
        """The other method's model with hindsight. Raises Unsupported where there is none."""
        return with_hindsight(model, spec)


def with_hindsight(model: nn.Module, spec: TaskSpec) -> nn.Module:
    """`model` deciding in hindsight in inference mode.

    Raises Unsupported unless it decides about whole samples, each with one class as its target.
    """
    if spec.causal or spec.kind == "seq2seq":
        raise Unsupported("hindsight needs one class per sample: a route has many targets here")
    hindsight = Hindsight(choices(model, spec))
    # Hooks, not a wrapper module: the model keeps its class, attributes and state_dict.
    model.register_forward_pre_hook(hindsight.begin)
    model.register_forward_hook(hindsight.end, always_call=True)
    return model


def choices(model: nn.Module, spec: TaskSpec) -> list[list[Route]]:
    """The choices of a model: for each its alternatives, and for each of these the gates it sets.

    A chain of gates is one choice (how many run), every other gate is one: open or closed, or which
    of its alternatives runs. With few routes in all, the whole route is one. Raises Unsupported for
    gates on tokens or independent units, and where nothing is decided.
    """
    # Two passes over a blank sample reveal the gates: open, all of them; closed, how they depend.
    was_training = model.training
    with torch.no_grad(), routing.observe() as opened, routing.force("open"):
        model.eval()(_blank(spec))
    with torch.no_grad(), routing.observe() as closed, routing.force("closed"):
        model(_blank(spec))
    model.train(was_training)
    if not opened.decisions:
        raise Unsupported("the method announces no decision: nothing can be chosen in hindsight")
    _refuse_many_routes(opened.decisions)
    names = [decision.name for decision in opened.decisions]
    if len(closed.decisions) < len(names):  # the first closed gate ends the pass
        return [[_first(names, depth) for depth in range(len(names) + 1)]]
    found = [_alternatives(decision) for decision in opened.decisions]
    if math.prod(map(len, found)) > MAX_ROUTES:
        return found
    routes = itertools.product(*found)  # few enough: one choice among whole routes
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
    """The possible decisions of one gate about one sample."""
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
        self.stored: dict[bytes, Route] = {}  # by content: a sample may come in any batch
        self._open: list[AbstractContextManager[None]] = []

    def begin(self, model: nn.Module, args: tuple[Batch]) -> None:
        """Before a forward pass: replay the routes of its samples.

        At inference only, and only where decisions are not forced or replayed already.
        """
        context: AbstractContextManager[None] = nullcontext()
        # The search's own passes are replays, so that they do not start another search.
        if not (model.training or routing.is_forced()):
            context = routing.replay(
                _observation(self.routes(model, args[0]), args[0].inputs.device)
            )
        context.__enter__()
        self._open.append(context)

    def end(self, model: nn.Module, args: tuple[Batch], output: Any) -> None:
        """After a forward pass, also after one that failed."""
        self._open.pop().__exit__(None, None, None)

    def routes(self, model: nn.Module, batch: Batch) -> list[Route]:
        """Each sample's route, searched in its first pass."""
        keys = [_content(batch, sample) for sample in range(len(batch))]
        new = [sample for sample, key in enumerate(keys) if key not in self.stored]
        if new:
            rows = torch.tensor(new, device=batch.inputs.device)
            found = self._search(model, batch.select(rows))
            self.stored |= {keys[sample]: route for sample, route in zip(new, found, strict=True)}
        return [self.stored[key] for key in keys]

    @torch.no_grad()
    def _search(self, model: nn.Module, batch: Batch) -> list[Route]:
        """For each sample the cheapest route that is right, choice by choice from the last."""
        best: list[Route] = [self._full_route() for _ in range(len(batch))]
        # From the last: what later blocks do is settled before an earlier one is left out.
        for alternatives in reversed(self.choices):
            scores = []  # one [B] per alternative
            for alternative in alternatives:
                routes = [{**route, **alternative} for route in best]
                scores.append(_score(model, batch, _observation(routes, batch.inputs.device)))
            chosen = torch.stack(scores).argmax(0).tolist()  # the first of equals
            best = [{**r, **alternatives[k]} for r, k in zip(best, chosen, strict=True)]
        return best

    def _full_route(self) -> Route:
        """The start of the search: every choice at its last alternative (open, or the last)."""
        return {name: run for options in self.choices for name, run in options[-1].items()}


def _observation(routes: list[Route], device: torch.device) -> Observation:
    """The decisions of every gate about the samples that take these routes."""
    decisions = []
    for name in routes[0]:
        run = torch.tensor([route[name] for route in routes], device=device)
        axes = SAMPLES if run.dim() == 1 else SAMPLE_CHOICES
        # A replay reads names and `run`; probabilities and cost stay the gate's own.
        decisions.append(Decision(name, axes, run.float(), run, Cost()))
    return Observation(decisions)


def _score(model: nn.Module, batch: Batch, tried: Observation) -> Tensor:
    """Higher is better, [B]: being right first, then few FLOPs."""
    with routing.replay(tried), routing.observe() as seen:
        logits = model(batch).logits
    # float64: RIGHT and single FLOPs in one number.
    spent = torch.zeros(len(batch), dtype=torch.float64, device=logits.device)
    for decision in seen.decisions:
        flops = decision.flops_of_samples()
        index = decision.index
        spent = spent + flops if index is None else spent.index_add(0, index, flops)
    return RIGHT * (logits.argmax(-1) == batch.targets) - spent


def _content(batch: Batch, sample: int) -> bytes:
    """A sample's inputs and targets as bytes: the key of its route."""
    # With the targets: a route depends on both, and equal inputs may have different targets.
    parts = (batch.inputs[sample], batch.targets[sample])
    return b"".join(part.cpu().numpy().tobytes() for part in parts)
