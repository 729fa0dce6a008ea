"""Contracts about padding: it changes no result, and a sample may consist of nothing else."""

from __future__ import annotations

from dataclasses import replace

import torch

from bench.check.candidate import FEW, Candidate
from bench.check.comparison import at, differing_gate, must_agree, run_pass
from bench.check.contract import Broken, NotDefined
from bench.check.contracts.finite import must_be_finite, must_have_finite_logits
from bench.check.tiny_tasks import VOCABULARY
from bench.types import Batch


def padding_ignored(candidate: Candidate) -> None:
    """What stands where the mask is false changes no result."""
    batch = candidate.tiny.batch(FEW)
    if batch.mask is None:
        raise NotDefined("no padding in this kind of task")
    # Other symbols, not zeros: an embedding of symbol 0 may happen to be neutral.
    scribbled = torch.where(batch.mask, batch.inputs, (batch.inputs + 1) % VOCABULARY)
    others = replace(batch, inputs=scribbled)
    for point, model in candidate.at_points():
        wanted, seen = run_pass(model.eval(), batch)
        found, decided = run_pass(model, others)
        what = f"other symbols in the padding{at(point)}"
        must_agree(found, wanted, what, differing_gate(seen, decided))


def only_padding(candidate: Candidate) -> None:
    """Samples of padding only get finite logits and a finite loss, as in the dense model.

    Real data has empty inputs. A softmax or a mean over no token is NaN, and one such sample in a
    batch makes the whole training step NaN.
    """
    cases = {
        f"one of {FEW} samples is padding only": _emptied(candidate.tiny.batch(FEW), 1),
        f"all of {FEW} samples are padding only": _emptied(candidate.tiny.batch(FEW), FEW),
    }
    for what, batch in cases.items():
        _must_suit_dense(candidate, batch)
        for point, model in candidate.at_points():
            must_have_finite_logits(model.eval(), batch, f"inference, {what}{at(point)}")
        if candidate.trains:
            must_be_finite(
                candidate, candidate.make_untrained().train(), batch, f"training, {what}"
            )


def _emptied(batch: Batch, num_samples: int) -> Batch:
    """The batch without a real token in its first samples."""
    if batch.mask is None:
        raise NotDefined("no padding in this kind of task")
    mask = batch.mask.clone()
    mask[:num_samples] = False
    return replace(batch, mask=mask)


def _must_suit_dense(candidate: Candidate, batch: Batch) -> None:
    """Raises NotDefined where the backbone itself gives no finite result for such a batch."""
    # A foreign backbone may attend to nothing and return NaN: that is no fault of the method.
    dense = candidate.backbone.build(candidate.tiny.spec)
    for training in (True, False):
        try:
            must_have_finite_logits(dense.train(training), batch, "the dense model")
        except Broken as found:
            raise NotDefined(str(found)) from found
