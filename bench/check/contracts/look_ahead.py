"""A contract about order: in a causal model nothing depends on what comes later."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from bench.check.candidate import FEW, Candidate
from bench.check.comparison import at, differing_gate, must_agree, run_pass
from bench.check.contract import Broken, NotDefined
from bench.routing import Observation


def no_look_ahead(candidate: Candidate) -> None:
    """In a causal model position t is the same whatever comes later, decisions included."""
    spec = candidate.tiny.spec
    if not (spec.causal or spec.kind == "seq2seq"):
        raise NotDefined("the whole sample has one label")
    batch = candidate.tiny.batch(FEW, 3)
    # Of a pair the target side is predicted token by token; the source is known as a whole.
    key = "inputs" if batch.decoder_inputs is None else "decoder_inputs"
    tokens: Tensor = getattr(batch, key)  # [B, T]
    half = tokens.shape[1] // 2
    changed = tokens.clone()
    # Every later token becomes another one: adding 1 leaves none as it was.
    changed[:, half:] = (changed[:, half:] + 1) % spec.num_outputs
    for point, model in candidate.at_points():
        before, seen = run_pass(model.eval(), batch)
        after, decided = run_pass(model, replace(batch, **{key: changed}))
        # Gates first: a decision that looks ahead is the cause, other logits its consequence.
        gate = differing_gate(_first_tokens(seen, half), _first_tokens(decided, half))
        if gate is not None:
            what = f"decides before position {half} by what follows{at(point)}"
            raise Broken(f"gate {gate!r} {what}", gate=gate)
        what = f"other tokens from position {half} on change the predictions before it{at(point)}"
        must_agree(after[:, :half], before[:, :half], what)


def _first_tokens(seen: Observation, num_tokens: int) -> Observation:
    """Decisions about the first tokens only; those about whole samples as they are."""
    return Observation(
        [replace(d, run=d.run[:, :num_tokens] if d.per_token else d.run) for d in seen.decisions]
    )
