"""Contracts about what an answer may depend on: the sample, and nothing besides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from bench import routing
from bench.check.candidate import Candidate
from bench.check.promise import Broken, NotDefined, differing_gate, must_agree
from bench.check.skipping import masked_path
from bench.check.tiny import VOCABULARY
from bench.meters.flops import count
from bench.routing import Observation
from bench.types import Batch

SLACK = 0.05  # between what equal work costs twice
FEW, CROWD = 6, 64  # samples in a batch; methods are measured in batches as large as the second


def _answer(model: Any, batch: Batch) -> tuple[Tensor, Observation]:
    """Logits and decisions of one pass as the model is."""
    with torch.no_grad(), routing.observe() as seen:
        return model(batch).logits, seen


def alone_is_batched(candidate: Candidate) -> None:
    """A sample alone gets what it gets in a batch: by replayed decisions, and by its own.

    And what it gets in a small batch is what it gets in a large one. A decision within rounding of
    its threshold may fall either way, once: what breaks in two different batches is no rounding.
    """
    model = candidate.model.eval()
    broken: list[Broken] = []
    for seed in range(2):
        batch = candidate.tiny.batch(FEW, seed)
        together, seen = _answer(model, batch)
        for sample in range(len(batch)):
            one = torch.tensor([sample])
            with routing.replay(seen.select(one)):
                replayed, _ = _answer(model, batch.select(one))
            must_agree(replayed, together[one], "a sample alone, with its decisions replayed")
        if candidate.is_batch_invariant:
            found = _own_decisions(model, batch, together, seen)
            broken += (found or _in_a_crowd(model, candidate.tiny.batch(CROWD, seed)))[:1]
    if len(broken) == 2:
        raise broken[0]


def _own_decisions(model: Any, batch: Batch, together: Tensor, seen: Observation) -> list[Broken]:
    """What is found for samples that decide alone otherwise than in the batch."""
    broken: list[Broken] = []
    for sample in range(len(batch)):
        one = torch.tensor([sample])
        alone, decided = _answer(model, batch.select(one))
        gate = differing_gate(seen.select(one), decided)
        try:
            what = f"sample {sample} alone is not what it is in a batch of {len(batch)}"
            must_agree(alone, together[one], _whose_fault(what, gate), gate)
        except Broken as found:
            broken.append(found)
    return broken


def _in_a_crowd(model: Any, crowd: Batch) -> list[Broken]:
    """What is found when the first few samples of `crowd` are a batch of their own."""
    few = torch.arange(FEW)
    together, seen = _answer(model, crowd)
    part, decided = _answer(model, crowd.select(few))
    gate = differing_gate(seen.select(few), decided)
    try:
        what = f"{FEW} samples are not what they are in a batch of {len(crowd)}"
        must_agree(part, together[few], _whose_fault(what, gate), gate)
    except Broken as found:
        return [found]
    return []


def _whose_fault(what: str, gate: str | None) -> str:
    decides = (
        f"gate {gate!r} decides otherwise" if gate else "the same decisions give another result"
    )
    return f"{what}: {decides} (batch_invariant = False declares it, where that is the method)"


def no_memory(candidate: Candidate) -> None:
    """An input that was seen before is computed again, in another call and in the same batch."""
    if getattr(candidate.method, "reads_targets", False):
        raise NotDefined("a control that remembers what it found in hindsight (reads_targets)")
    model = candidate.model.eval()
    batch, other = candidate.tiny.batch(2, 1), candidate.tiny.batch(2, 2)

    def cost(*batches: Batch) -> list[int]:
        with torch.inference_mode():
            return [count(model, each).total for each in batches]

    cost(other)  # what is prepared once is prepared now
    first, again, copied, _ = cost(batch, batch, batch.map(torch.clone), other)
    if not first == again == copied:
        raise Broken(
            f"the same input costs {first:,} FLOPs, then {again:,}, as a copy {copied:,}: "
            "something remembers it"
        )
    if candidate.is_batch_invariant:
        two, four, eight = cost(*(batch.select(torch.zeros(n).long()) for n in (2, 4, 8)))
        if eight <= four or abs((eight - four) - 2 * (four - two)) > SLACK * (eight - four):
            raise Broken(
                f"2, 4 and 8 copies of a sample cost {two:,}, {four:,} and {eight:,} FLOPs: "
                "repeated samples of a batch must be computed like others"
            )


def targets_unread(candidate: Candidate) -> None:
    """Other targets change neither decisions nor logits, in training and at inference."""
    if getattr(candidate.method, "reads_targets", False):
        raise NotDefined("a control that declares to read the targets (reads_targets)")
    model = candidate.model.eval()
    for size in (FEW, 1):
        batch = candidate.tiny.batch(size)
        others = replace(batch, targets=(batch.targets + 1) % candidate.tiny.spec.num_outputs)
        _must_ignore(model, batch, others, "at inference other targets change the answer")
        with masked_path(model):
            _must_ignore(model, batch, others, "in training other targets change the forward pass")


def _must_ignore(model: Any, batch: Batch, others: Batch, what: str) -> None:
    torch.manual_seed(0)
    logits, seen = _answer(model, batch)
    torch.manual_seed(0)
    changed, decided = _answer(model, others)
    gate = differing_gate(seen, decided)
    if gate is not None:
        raise Broken(f"{what}: gate {gate!r} decides by them", gate=gate)
    if not torch.equal(logits, changed):
        raise Broken(f"{what}: the forward pass must not read batch.targets")


def unseen_is_seen(candidate: Candidate) -> None:
    """Whoever observes or counts a pass changes no bit of its answer, nor does inference mode."""
    model = candidate.model.eval()
    for size in (FEW, 1):
        batch = candidate.tiny.batch(size, 4)

        def answer(run: Callable[[Batch], Tensor], batch: Batch = batch) -> Tensor:
            torch.manual_seed(0)
            return run(batch)

        with torch.no_grad():
            plain = answer(lambda batch: model(batch).logits)
        with torch.inference_mode():
            seen = {
                "in inference mode": answer(lambda batch: model(batch).logits),
                "observed": answer(lambda batch: _answer(model, batch)[0]),
                "counted": answer(lambda batch: count(model, batch).result.logits),
            }
        for how, logits in seen.items():
            if not torch.equal(logits, plain):
                gap = float((logits - plain).abs().max())
                raise Broken(
                    f"{how}, the model answers a batch of {size} otherwise than unwatched: logits "
                    f"differ by up to {gap:.2g}; what is counted must be what is evaluated"
                )


def no_look_ahead(candidate: Candidate) -> None:
    """In a causal model position t is the same whatever comes later, decisions included."""
    spec = candidate.tiny.spec
    if not (spec.causal or spec.kind == "seq2seq"):
        raise NotDefined("the whole sample has one label")
    model, batch = candidate.model.eval(), candidate.tiny.batch(6, 3)
    key = "inputs" if batch.decoder_inputs is None else "decoder_inputs"
    tokens: Tensor = getattr(batch, key)
    half = tokens.shape[1] // 2
    changed = tokens.clone()
    changed[:, half:] = (changed[:, half:] + 1) % spec.num_outputs
    before, seen = _answer(model, batch)
    after, decided = _answer(model, replace(batch, **{key: changed}))
    gate = differing_gate(_first(seen, half), _first(decided, half))
    if gate is not None:
        raise Broken(f"gate {gate!r} decides before position {half} by what follows", gate=gate)
    what = f"other tokens from position {half} on change what is said before it"
    must_agree(after[:, :half], before[:, :half], what)


def _first(seen: Observation, num_tokens: int) -> Observation:
    """Decisions about the first tokens only; those about whole samples as they are."""
    return Observation(
        [
            replace(d, run=d.run[:, :num_tokens] if d.run.dim() > 1 else d.run)
            for d in seen.decisions
        ]
    )


def padding_ignored(candidate: Candidate) -> None:
    """What stands where the mask is false changes no answer."""
    batch = candidate.tiny.batch(6)
    if batch.mask is None:
        raise NotDefined("no padding in this kind of task")
    scribbled = torch.where(batch.mask, batch.inputs, (batch.inputs + 1) % VOCABULARY)
    others = replace(batch, inputs=scribbled)
    model = candidate.model.eval()
    wanted, seen = _answer(model, batch)
    found, decided = _answer(model, others)
    must_agree(found, wanted, "other symbols in the padding", differing_gate(seen, decided))
