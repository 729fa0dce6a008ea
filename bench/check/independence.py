"""Contracts about what an answer may depend on: the sample, and nothing besides."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bench import routing
from bench.check.candidate import CROWD, FEW, Candidate
from bench.check.comparison import answer, at, differing_gate, must_agree
from bench.check.contract import Broken
from bench.routing import Observation
from bench.types import Batch, Point

NUM_TURNS = 3  # of a batch, so that another sample comes first


def alone_is_batched(candidate: Candidate) -> None:
    """A sample alone gets what it gets in a batch: by replayed decisions, and by its own.

    And what it gets in a small batch is what it gets in a large one. A decision within rounding of
    its threshold may fall either way, once: what breaks in two different batches is no rounding.
    """
    for point, model in candidate.at_points():
        first = _found(candidate, model.eval(), point, seed=0)
        if first and _found(candidate, model, point, seed=1):
            raise first[0]


def _found(candidate: Candidate, model: Any, point: Point, seed: int) -> list[Broken]:
    """What is found in batches of one seed. Raises Broken for what no rounding explains."""
    batch, crowd = candidate.tiny.batch(FEW, seed), candidate.tiny.batch(CROWD, seed)
    together, seen = answer(model, batch)
    for sample in range(len(batch)):
        one = torch.tensor([sample])
        with routing.replay(seen.select(one)):
            replayed, _ = answer(model, batch.select(one))
        what = f"a sample alone, with its decisions replayed{at(point)}"
        must_agree(replayed, together[one], what)
    if not candidate.is_batch_invariant:
        return _follows_one(model, batch) + _follows_one(model, crowd)
    return _own_decisions(model, batch, together, seen) or _in_a_crowd(model, crowd)


def _follows_one(model: Any, batch: Batch) -> list[Broken]:
    """What is found where all samples do what the one in a certain place would do alone.

    A decision may depend on the batch where that is declared; such a one depends on one sample.
    """
    turns = [torch.arange(len(batch)).roll(-turn) for turn in range(NUM_TURNS)]
    together = [_whole_decisions(model, batch.select(turn)) for turn in turns]
    alone = [_whole_decisions(model, batch.select(torch.tensor([n]))) for n in _near(batch)]
    for gate in sorted(set.intersection(*map(set, [*together, *alone]))):
        leaders = [runs[gate][0] for runs in together]
        alike = all(bool((runs[gate] == runs[gate][:1]).all()) for runs in together)
        if not alike or all(torch.equal(each, leaders[0]) for each in leaders):
            continue
        for place in range(FEW):
            wanted = [alone[(place + turn) % len(alone)][gate][0] for turn in range(NUM_TURNS)]
            if all(map(torch.equal, leaders, wanted)):
                what = f"in a batch of {len(batch)} all do what sample {place} of the batch wants"
                return [Broken(f"gate {gate!r}: {what}", gate=gate)]
    return []


def _near(batch: Batch) -> range:
    """The samples that stand in the first places in one of the turns."""
    return range(min(len(batch), FEW + NUM_TURNS))


def _whole_decisions(model: Any, batch: Batch) -> dict[str, Tensor]:
    """What each gate that is asked about the whole batch runs."""
    _, seen = answer(model, batch)
    return {decision.name: decision.run for decision in seen.decisions if decision.index is None}


def _own_decisions(model: Any, batch: Batch, together: Tensor, seen: Observation) -> list[Broken]:
    """What is found for samples that decide alone otherwise than in the batch."""
    broken: list[Broken] = []
    for sample in range(len(batch)):
        one = torch.tensor([sample])
        alone, decided = answer(model, batch.select(one))
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
    together, seen = answer(model, crowd)
    part, decided = answer(model, crowd.select(few))
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
