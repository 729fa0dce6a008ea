"""Contracts about training: gates learn, and skipped parts do not."""

from __future__ import annotations

import torch
from torch import nn

from bench import routing
from bench.check.candidate import Candidate
from bench.check.comparison import differing_gate
from bench.check.contract import Broken, NotDefined
from bench.check.gradients import (
    Gradients,
    Reading,
    Severing,
    gradients,
    parameters_moving,
    trainable,
)
from bench.check.masked_path import masked_path

ROUGH = 0.1  # how far bfloat16 may move the logits, as a share of their spread


def gates_learn(candidate: Candidate) -> None:
    """A training step's gradients are finite; what a gate decides by gets one, and its steps."""
    if not candidate.trains:
        raise NotDefined("training free")
    model = candidate.make_untrained()
    # A copy to compare with: a gate may get gradients that its optimiser never applies.
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    with Reading() as reading, routing.observe() as seen:
        total = _gradients_of_steps(candidate, model)
    # A gate's parameters are those that a function read while the gate's region was open.
    gates = {name for name, p in trainable(model) if id(p) in reading.read}
    silent = [name for name, _ in trainable(model) if name not in total or not total[name].any()]
    # A decision computed outside its region shows by its effect: decisions move, logits do not.
    untaught = [name for name in silent if name in gates or _only_decides(candidate, model, name)]
    if untaught:
        raise Broken(f"no gradient reaches {', '.join(untaught)}, which a gate decides by")
    if not (gates and seen.decisions):
        raise NotDefined("no gate with parameters of its own (region 'router')")
    candidate.train(model, num_steps=1)  # for gradients that came after the last step
    left = [name for name, p in model.named_parameters() if torch.equal(p, before[name])]
    if stuck := [name for name in left if name in gates]:
        raise Broken(
            f"no step moves {', '.join(stuck)}, which a gate decides by and which gets gradients: "
            "param_groups leaves it out"
        )


def _gradients_of_steps(candidate: Candidate, model: nn.Module) -> Gradients:
    """Magnitudes of the gradients after each of some steps, summed."""
    total: Gradients = {}
    # Several values of `progress`: a method may teach its gates in a part of training only.
    for seed, progress in enumerate((0.0, 0.5, 1.0)):
        candidate.train(model, num_steps=1)  # what starts at zero gets a chance to leave it
        model.zero_grad()
        candidate.loss(model, candidate.tiny.batch(8, seed), progress).backward()
        for name, gradient in gradients(model).items():
            if not gradient.isfinite().all():  # of this step's progress: `finite` tried 0.5
                raise Broken(f"the gradient of {name} is not finite at progress {progress}")
            total[name] = total.get(name, torch.zeros_like(gradient)) + gradient.abs()
    return total


@torch.no_grad()
def _only_decides(candidate: Candidate, model: nn.Module, name: str) -> bool:
    """Whether another value of a parameter changes decisions, and no logits if those are kept."""
    batch, parameter = candidate.tiny.batch(8), model.get_parameter(name)
    model.eval()
    with routing.observe() as seen:
        wanted = model(batch).logits
    before = parameter.clone()
    # Any other value will do: replayed decisions keep the logits, free ones may change.
    parameter.normal_(generator=torch.Generator().manual_seed(0))
    try:
        with routing.replay(seen):
            found = model(batch).logits
        with routing.observe() as others:
            model(batch)
    finally:
        parameter.copy_(before)
    return torch.equal(found, wanted) and differing_gate(seen, others) is not None


def skipped_learn_nothing(candidate: Candidate) -> None:
    """Parameters that closed gates leave out of the result get no gradient through it.

    Such a parameter moves the logits of inference when every gate is open, and not when closed.
    What it gets through a gate, which it helps to decide, is left out.
    """
    model, batch = candidate.model, candidate.tiny.batch(6)
    # Skipped is what moves the logits when every gate is open and does not when all are closed.
    with routing.observe() as seen, routing.force("open"):
        skipped = parameters_moving(model.eval(), model(batch).logits)
    if not seen.decisions:
        raise NotDefined("announces no decision")
    with routing.force("closed"):
        skipped -= parameters_moving(model, model(batch).logits)
    with masked_path(model), routing.force("closed"), Severing(), Reading() as reading:
        taught = skipped & parameters_moving(model, model(batch).logits)
        # An exit's head decides by its own logits, and legitimately learns through them.
        taught -= parameters_moving(model, *reading.given)
    if taught:
        raise Broken(
            f"every gate is closed, and yet {', '.join(sorted(taught))} get a gradient through the "
            "logits: the masked path lets skipped parts through",
            gate=seen.decisions[0].name,
        )
