"""Greedy decoding of sequence-to-sequence models, in parallel over positions."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from bench.types import Batch, Model

PADDING, BEGIN, END = 0, 1, 2  # symbols of every vocabulary that is decoded here


@torch.no_grad()
def greedy(model: Model, batch: Batch) -> Tensor:
    """Greedy decoding of a causal decoder: the likeliest next symbols, [B, T].

    Every pass predicts all positions at once and feeds the predictions back until nothing changes.
    After k passes the first k symbols are those of decoding one by one (Song et al. 2021, Jacobi
    iteration), whatever the initial guess was. The initial guess is the target, so that a correct
    model needs one pass; a model that looks ahead starts from padding instead.
    """
    assert batch.decoder_inputs is not None
    given = batch.decoder_inputs
    predicted = _predict(model, batch, given)
    if _looks_ahead(model, batch, predicted):
        # Such a model could copy the target; from padding it has nothing to copy.
        given = torch.full_like(given, PADDING).index_fill(1, given.new_tensor([0]), BEGIN)
        predicted = _predict(model, batch, given)
    for _ in range(given.shape[1] - 1):  # each pass fixes at least one more symbol
        ended = (predicted == END).cumsum(1) > 0
        shifted = predicted.masked_fill(ended, PADDING).roll(1, dims=1)
        shifted[:, 0] = BEGIN
        if torch.equal(shifted, given):
            break
        given = shifted
        predicted = _predict(model, batch, given)
    return predicted


def _predict(model: Model, batch: Batch, given: Tensor) -> Tensor:
    """The likeliest symbol at every position for the decoder inputs `given`, [B, T]."""
    return model(replace(batch, decoder_inputs=given)).logits.argmax(-1)


def _looks_ahead(model: Model, batch: Batch, predicted: Tensor) -> bool:
    """Whether predictions change with decoder inputs at later positions.

    The later inputs are masked from a different position on in each row. A model that copies them
    would score perfectly from the targets.
    """
    given = batch.decoder_inputs
    assert given is not None
    position = torch.arange(given.shape[1], device=given.device)  # [T]
    end = 1 + torch.arange(len(given), device=given.device) % (given.shape[1] - 1)  # [B]
    is_before = position < end[:, None]  # [B, T]
    alone = _predict(model, batch, given.where(is_before, PADDING))
    return not torch.equal(predicted[is_before], alone[is_before])
