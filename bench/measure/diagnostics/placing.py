"""A decision in the frame of the original samples and tokens, whatever was gathered before it."""

from __future__ import annotations

import torch
from torch import Tensor

from bench import routing
from bench.routing import Decision
from bench.types import Batch


def num_positions(decision: Decision) -> int:
    """Tokens of the longest sample that a decision shows: by its row, or by their positions."""
    tokens = decision.tokens
    last = 0 if tokens is None or not tokens.numel() else int(tokens.max()) + 1
    return max(decision.run.shape[1], last)


def placed(
    decision: Decision,
    values: Tensor,
    num_samples: int,
    num_tokens: int,
    unreached: float = False,
) -> Tensor:
    """`values`, shaped like the decision, in the frame of the whole batch.

    What the gate did not reach is `unreached`: it does not run, and has no probability.
    """
    if decision.tokens is not None:
        tokens = decision.tokens.cpu()
        tokens = tokens.view(*tokens.shape, *[1] * (values.dim() - 2)).expand_as(values)
        wide = values.new_full((len(values), num_tokens, *values.shape[2:]), unreached)
        values = wide.scatter(1, tokens, values)
    if decision.index is None:
        return values
    full = values.new_full((num_samples, *values.shape[1:]), unreached)
    return full.index_copy(0, decision.index.cpu(), values)


def decided_of(decision: Decision) -> Tensor:
    """The elements of a decision of which some unit is eligible, bool [n] or [n, T]."""
    if decision.eligible is None:
        return torch.ones_like(decision.any_unit_runs(), device="cpu")
    eligible = decision.eligible.cpu()
    return eligible if decision.unit is None else eligible.any(-1)


def stays_of(decision: Decision) -> Tensor | None:
    """Of a merge, the tokens that continue in their own place, bool [n, T]; None of another gate.

    A merge's payload names the token into which each goes: itself where it stays. Tokens that
    others merge into are not eligible, and do not count as running.
    """
    into = decision.payload
    if into is None or decision.axes != routing.TOKENS or into.shape != decision.run.shape:
        return None
    if into.dtype != torch.int64:
        return None
    places = torch.arange(into.shape[1]) if decision.tokens is None else decision.tokens.cpu()
    return decision.run.cpu() | (into.cpu() == places)


def real_of(batch: Batch, run: Tensor, per_token: bool) -> Tensor:
    """Which elements of a choice are no padding, [B] or [B, T].

    The mask is that of the inputs, behind a class token if there is one. In an encoder-decoder of
    which both sides are equally long the tokens' side is unknown: then all count as real.
    """
    mask, shape = batch.mask, run.shape[: 2 if per_token else 1]
    everything = torch.ones(shape, dtype=torch.bool)
    if mask is None or not per_token:
        return everything
    if batch.decoder_inputs is not None and batch.decoder_inputs.shape[1] == mask.shape[1]:
        return everything
    leading = run.shape[1] - mask.shape[1]
    if leading not in (0, 1):
        return everything
    return torch.cat([everything[:, :leading], mask.cpu()], 1)
