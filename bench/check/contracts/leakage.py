"""Contracts about what a pass uses: its inputs, no earlier pass, no target, no observer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from bench.check.candidate import CROWD, FEW, Candidate
from bench.check.comparison import at, differing_gate, run_pass
from bench.check.contract import Broken, NotDefined
from bench.check.masked_path import masked_path
from bench.meters.flops.counter import count
from bench.meters.flops.novel import make_novel
from bench.types import Batch

# Relative differences between what equal work costs twice. Where decisions may depend on the
# batch, another order of it may cost up to half as much again; a cache saves nearly everything.
SLACK, HALF = 0.05, 0.5
SIZES = CROWD, FEW, 1  # of batches; further operating points are tried with the first one only
MAX_COST_RATIO = 2  # of samples that differ: decisions may depend on them
NUM_REPEATS = 20  # of one batch: a cache may keep only what comes often


def no_memory(candidate: Candidate) -> None:
    """An input that was seen before is computed again, in another call and in the same batch."""
    if candidate.resolved.flags.reads_targets:
        raise NotDefined("a control that keeps what it found in hindsight (reads_targets)")
    model = candidate.model.eval()
    batch, other = candidate.tiny.batch(2, 1), candidate.tiny.batch(2, 2)

    def cost(*batches: Batch) -> list[int]:
        # FLOPs, not time: a cached result costs none, whatever the machine is doing.
        with torch.inference_mode():
            return [count(model, each).total for each in batches]

    cost(other)  # a first pass may prepare masks and indices once, which is legitimate
    # The copy finds caches by identity; `other` last, so that not every pass is of one input.
    first, again, copied, _ = cost(batch, batch, batch.map(torch.clone), other)
    if not first == again == copied:
        raise Broken(
            f"the same input costs {first:,} FLOPs, then {again:,}, as a copy {copied:,}: "
            "something remembers it"
        )
    given = [candidate.tiny.batch(16, seed) for seed in range(3)]  # as `calibrate` got them
    _must_not_know(sum(cost(*given)), sum(cost(*map(make_novel, given))))
    if candidate.is_batch_invariant:
        _must_compute_copies(*cost(*(batch.select(torch.zeros(n).long()) for n in (2, 4, 8))))
    crowd, generator = candidate.tiny.batch(CROWD, 1), torch.Generator().manual_seed(0)
    orders = [torch.randperm(CROWD, generator=generator) for _ in range(NUM_REPEATS)]
    slack = SLACK if candidate.is_batch_invariant else HALF
    first, *later = cost(crowd, *(crowd.select(order) for order in orders), crowd)
    for again in later:
        if abs(again - first) > slack * first:
            raise Broken(
                f"the same {CROWD} samples cost {first:,} FLOPs, and {again:,} when they come "
                "again, in whatever order: something remembers them"
            )


def _must_not_know(known: int, novel: int) -> None:
    """Raises Broken unless what calibration was given costs about what mixtures of it cost."""
    if known * MAX_COST_RATIO < novel:
        raise Broken(
            f"samples that were given to calibrate cost {known:,} FLOPs, mixtures of them "
            f"{novel:,}: something remembers them"
        )


def _must_compute_copies(two: int, four: int, eight: int) -> None:
    """Raises Broken unless FLOPs grow with the number of copies of a sample."""
    # Differences, so that a fixed cost per pass cancels.
    if eight <= four or abs((eight - four) - 2 * (four - two)) > SLACK * (eight - four):
        raise Broken(
            f"2, 4 and 8 copies of a sample cost {two:,}, {four:,} and {eight:,} FLOPs: "
            "repeated samples of a batch must be computed like others"
        )


def targets_unread(candidate: Candidate) -> None:
    """Other targets change neither decisions nor logits, in training and at inference."""
    if candidate.resolved.flags.reads_targets:
        raise NotDefined("a control that declares to read the targets (reads_targets)")
    for number, (point, model) in enumerate(candidate.at_points()):
        for size in SIZES[: 1 if number else None]:
            batch = candidate.tiny.batch(size)
            # Every target changes: a method may look at one of them only.
            others = replace(batch, targets=(batch.targets + 1) % candidate.tiny.spec.num_outputs)
            what = "in {} other targets change the result" + at(point)
            _must_ignore_targets(model.eval(), batch, others, what.format("inference"))
            with masked_path(model):
                _must_ignore_targets(model, batch, others, what.format("training"))


def _must_ignore_targets(model: Any, batch: Batch, others: Batch, what: str) -> None:
    # The same seed for both: noise in training must not look like a dependence on the targets.
    torch.manual_seed(0)
    logits, seen = run_pass(model, batch)
    torch.manual_seed(0)
    changed, decided = run_pass(model, others)
    gate = differing_gate(seen, decided)
    if gate is not None:
        raise Broken(f"{what}: gate {gate!r} decides by them", gate=gate)
    if not torch.equal(logits, changed):  # bit for bit: the inputs are the same tensors
        raise Broken(f"{what}: the forward pass must not read batch.targets")


def unseen_is_seen(candidate: Candidate) -> None:
    """Observing or counting a pass changes no bit of its result, nor does inference mode."""
    for number, (point, model) in enumerate(candidate.at_points()):
        for size in SIZES[: 1 if number else None]:
            _must_agree_observed(model.eval(), candidate.tiny.batch(size, 4), at(point))


def _must_agree_observed(model: Any, batch: Batch, where: str) -> None:
    def logits(run: Callable[[Any, Batch], Any]) -> Tensor:
        torch.manual_seed(0)  # inference may draw numbers, the same in every call
        found: Tensor = run(model, batch)
        return found

    def plain(model: Any, batch: Batch) -> Any:
        return model(batch).logits

    with torch.no_grad():
        wanted = logits(plain)
    # Each way in which a trial runs the model: quality, decisions, FLOPs.
    with torch.inference_mode():
        results = {
            "in inference mode": logits(plain),
            "observed": logits(lambda model, batch: run_pass(model, batch)[0]),
            "counted": logits(lambda model, batch: count(model, batch).result.logits),
        }
    for how, found in results.items():
        if not torch.equal(found, wanted):
            gap = float((found - wanted).abs().max())
            raise Broken(
                f"{how}, a batch of {len(batch)} has another result than in a plain pass{where}:"
                f" logits differ by up to {gap:.2g}; what is counted must be what is evaluated"
            )
