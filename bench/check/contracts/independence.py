"""Contracts about the batch: a sample's result depends on that sample and on no other."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bench import routing
from bench.check.candidate import CROWD, FEW, Candidate
from bench.check.comparison import at, differing_gate, must_agree, run_pass
from bench.check.contract import Broken
from bench.routing import Observation
from bench.types import Batch, Point

NUM_TURNS = 3  # rotations of a batch, each with another sample in first place


def alone_is_batched(candidate: Candidate) -> None:
    """A sample alone gets what it gets in a batch: by replayed decisions, and by its own.

    A small batch gets what the same samples get in a large one. A decision within rounding of its
    threshold may fall either way: a difference counts only if two different batches show one.
    """
    for point, model in candidate.at_points():
        first = _differences(candidate, model.eval(), point, seed=0)
        if first and _differences(candidate, model, point, seed=1):
            raise first[0]


def _differences(candidate: Candidate, model: Any, point: Point, seed: int) -> list[Broken]:
    """Differences in batches of one seed. Raises Broken for one that rounding cannot explain."""
    batch, crowd = candidate.tiny.batch(FEW, seed), candidate.tiny.batch(CROWD, seed)
    together, seen = run_pass(model, batch)
    for sample in range(len(batch)):
        one = torch.tensor([sample])
        # With equal decisions only sums in another order remain: no seed excuses more than that.
        with routing.replay(seen.select(one)):
            replayed, _ = run_pass(model, batch.select(one))
        what = f"a sample alone, with its decisions replayed{at(point)}"
        must_agree(replayed, together[one], what)
    if not candidate.is_batch_invariant:
        # Dependence on the whole batch is declared; dependence on one of its samples is a fault.
        return _led_by_one(model, batch) + _led_by_one(model, crowd)
    return _alone_differences(model, batch, together, seen) or _crowd_differences(model, crowd)


def _led_by_one(model: Any, batch: Batch) -> list[Broken]:
    """Gates where all samples run what the sample in one place would run alone."""
    # Rotating the batch separates "the sample in place 2 leads" from "this sample's content does".
    turns = [torch.arange(len(batch)).roll(-turn) for turn in range(NUM_TURNS)]
    together = [_whole_decisions(model, batch.select(turn)) for turn in turns]
    alone = [_whole_decisions(model, batch.select(torch.tensor([n]))) for n in _near(batch)]
    for gate in sorted(set.intersection(*map(set, [*together, *alone]))):
        leaders = [runs[gate][0] for runs in together]
        alike = all(bool((runs[gate] == runs[gate][:1]).all()) for runs in together)
        # A gate that is always open, or whose samples differ, is led by none of them.
        if not alike or all(torch.equal(each, leaders[0]) for each in leaders):
            continue
        for place in range(FEW):
            wanted = [alone[(place + turn) % len(alone)][gate][0] for turn in range(NUM_TURNS)]
            if all(map(torch.equal, leaders, wanted)):
                what = f"in a batch of {len(batch)} all run what sample {place} of it runs alone"
                return [Broken(f"gate {gate!r}: {what}", gate=gate)]
    return []


def _near(batch: Batch) -> range:
    """The samples that are in one of the first places after one of the rotations."""
    return range(min(len(batch), FEW + NUM_TURNS))


def _whole_decisions(model: Any, batch: Batch) -> dict[str, Tensor]:
    """What each gate that decides about the whole batch runs."""
    _, seen = run_pass(model, batch)
    # A call with an index decided about a part of the batch: its rows are not those of the batch.
    return {decision.name: decision.run for decision in seen.decisions if decision.index is None}


def _alone_differences(
    model: Any, batch: Batch, together: Tensor, seen: Observation
) -> list[Broken]:
    """Samples whose own decisions, or results, are others alone than in the batch."""
    broken: list[Broken] = []
    for sample in range(len(batch)):
        one = torch.tensor([sample])
        alone, decided = run_pass(model, batch.select(one))
        gate = differing_gate(seen.select(one), decided)
        try:
            what = f"sample {sample} alone is not what it is in a batch of {len(batch)}"
            must_agree(alone, together[one], _with_cause(what, gate), gate)
        except Broken as found:
            # Collected, not raised: the caller looks for a second one before it blames the method.
            broken.append(found)
    return broken


def _crowd_differences(model: Any, crowd: Batch) -> list[Broken]:
    """Whether the first few samples of `crowd` are others as a batch of their own."""
    few = torch.arange(FEW)
    together, seen = run_pass(model, crowd)
    part, decided = run_pass(model, crowd.select(few))
    gate = differing_gate(seen.select(few), decided)
    try:
        what = f"{FEW} samples are not what they are in a batch of {len(crowd)}"
        must_agree(part, together[few], _with_cause(what, gate), gate)
    except Broken as found:
        return [found]
    return []


def _with_cause(what: str, gate: str | None) -> str:
    """`what`, with the gate that decided otherwise, or that none did."""
    cause = f"gate {gate!r} decides otherwise" if gate else "equal decisions give another result"
    return f"{what}: {cause} (batch_invariant = False declares it, where that is the method)"
