"""Contracts about doing the same again: from a seed, from a state_dict, in another format."""

from __future__ import annotations

import copy
import dataclasses

import torch

from bench import routing
from bench.check.candidate import Candidate
from bench.check.comparison import must_agree, run_pass
from bench.check.contract import Broken, NotDefined
from bench.check.gradients import gradients
from bench.plugins.settings import as_json, construct

# How far bfloat16 may move the logits, as a share of their spread: it keeps 8 bits of each
# product, and errors add up over the blocks.
ROUGH = 0.1


def same_seed(candidate: Candidate) -> None:
    """Building and training twice from one seed gives bit-equal weights and buffers."""
    # Bit for bit: a trial that is resumed or compared relies on it.
    one, two = candidate.model.state_dict(), candidate.make().state_dict()
    different = [key for key in one if not torch.equal(one[key], two[key])]
    if different:
        raise Broken(f"two runs from one seed differ in {', '.join(different[:4])}")


def default_point(candidate: Candidate) -> None:
    """A trained and calibrated model computes what it does at the first of its operating points.

    The first one is measured as the default: a model that is left at another would be measured
    there before anything sets it.
    """
    if candidate.resolved.hooks.points is None:
        raise NotDefined("one operating point")
    batch, model = candidate.tiny.batch(5), candidate.model.eval()
    candidate.set_default()
    (wanted, _), (found, _) = run_pass(model, batch), run_pass(candidate.make(), batch)
    must_agree(found, wanted, "a trained model is not at the first point")


def round_trip(candidate: Candidate) -> None:
    """The settings as JSON and the state_dict give a model with the same results."""
    try:  # through JSON, as trial.json holds them
        method = construct(type(candidate.method), as_json(candidate.method))
        again = dataclasses.replace(candidate, method=method)
    except (TypeError, ValueError) as error:
        raise Broken(f"the method cannot be made from its own settings: {error}") from error
    model, batch = candidate.model.eval(), candidate.tiny.batch(5)
    # Another seed, so that what the state_dict leaves out is another number.
    other = again.make_untrained(seed=9).eval()
    try:
        other.load_state_dict(copy.deepcopy(model.state_dict()), strict=True)
    except RuntimeError as error:
        raise Broken(f"another model refuses the state_dict: {error}") from error
    with torch.no_grad():
        if not torch.equal(other(batch).logits, model(batch).logits):
            raise Broken("a model restored from settings and state_dict has other results")


def bf16(candidate: Candidate) -> None:
    """Under bfloat16 autocast a training step is finite, and inference has similar results."""
    model, batch = candidate.model.eval(), candidate.tiny.batch(6)
    # Decisions are replayed: near a threshold another format may legitimately decide otherwise.
    with torch.no_grad(), routing.observe() as seen:
        wanted = model(batch).logits
    autocast = torch.autocast("cpu", torch.bfloat16)
    with autocast, torch.no_grad(), routing.replay(seen):
        found = model(batch).logits.float()
    gap = float((found - wanted).abs().mean() / wanted.std())
    if not gap <= ROUGH:  # written so that NaN is broken too
        raise Broken(f"bfloat16 moves the logits by {gap:.0%} of their spread, equal decisions")
    if candidate.trains:
        trained = candidate.make_untrained().train()
        with autocast:
            loss = candidate.loss(trained, batch)
        loss.backward()
        bad = [name for name, g in gradients(trained).items() if not g.isfinite().all()]
        if bad or not bool(loss.isfinite()):
            raise Broken(f"a bfloat16 training step is not finite: {', '.join(bad) or 'the loss'}")
