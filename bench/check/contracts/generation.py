"""A contract about generation: with a cache, tokens and decisions are those of recomputing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from bench import routing
from bench.check.candidate import Candidate
from bench.check.comparison import CLOSE, at, run_pass
from bench.check.contract import Broken, NotDefined
from bench.routing import Observation
from bench.types import Batch, Unsupported

NUM_SAMPLES, NUM_TOKENS = 3, 6


def generates_alike(candidate: Candidate) -> None:
    """Greedy tokens with a cache are the likeliest of a pass over everything, decisions equal.

    Rounding may change either: a difference counts only if two different prompts show one.
    """
    if not candidate.tiny.spec.causal:
        raise NotDefined("no language model")
    if not hasattr(candidate.model, "generate"):
        raise NotDefined("the model has no generate(prompt, num_tokens)")
    if not candidate.is_batch_invariant:
        raise NotDefined("what a token gets depends on its pass: a cache would change it")
    for point, model in candidate.at_points():
        broken = _difference(candidate, model.eval(), 0, at(point))
        if broken is not None and _difference(candidate, model, 1, at(point)) is not None:
            raise broken


def _difference(candidate: Candidate, model: Any, seed: int, where: str) -> Broken | None:
    batch = candidate.tiny.batch(NUM_SAMPLES, seed)
    # Half a window, so that prompt and generated tokens share its positions.
    prompt = replace(batch, inputs=batch.inputs[:, : batch.inputs.shape[1] // 2])
    try:
        with torch.no_grad(), routing.observe() as cached:
            tokens = torch.stack(list(model.generate(prompt, NUM_TOKENS)), 1)
    except Unsupported as refusal:
        raise NotDefined(str(refusal)) from refusal
    # One pass over everything; the last token has no successor to predict.
    whole = torch.cat([prompt.inputs, tokens[:, :-1]], 1)
    logits, seen = run_pass(model, Batch(whole, whole))
    logits = logits[:, -NUM_TOKENS:]
    for gate, run in _by_token(seen).items():
        found = _by_token(cached).get(gate)
        if found is not None and found.shape == run.shape and not torch.equal(found, run):
            what = "decides otherwise in generation with a cache"
            return Broken(f"gate {gate!r} {what}{where}", gate=gate)
    # How far below the likeliest the chosen token is: two equally likely ones may swap.
    short = logits.amax(-1) - logits.gather(-1, tokens[..., None])[..., 0]
    if bool((short > CLOSE).any()):
        return Broken(
            f"with a cache other tokens are generated than by recomputing{where}: one is "
            f"{float(short.max()):.2g} below the likeliest"
        )
    return None


def _by_token(seen: Observation) -> dict[str, Tensor]:
    """What gates on tokens run, [B, T] or with units behind, calls joined along the tokens."""
    calls: dict[str, list[Tensor]] = {}
    # Calls about a part of the batch cannot be joined: their rows are other samples each time.
    others = {d.name for d in seen.decisions if not d.per_token or d.index is not None}
    for decision in seen.decisions:
        if decision.name not in others:
            calls.setdefault(decision.name, []).append(decision.run)
    return {gate: torch.cat(runs, 1) for gate, runs in calls.items()}
