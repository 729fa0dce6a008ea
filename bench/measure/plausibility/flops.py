"""FLOPs that cannot be all of them: a second counter saw more, or regions miss the whole."""

from __future__ import annotations

from bench.measure.plausibility.facts import Doubts, Facts, Metrics, same, value, values
from bench.meters.flops.formulas.elementwise import may_hide_products
from bench.records.catalogue import (
    FLOPS,
    FLOPS_BATCHED,
    FLOPS_PROFILER,
    FLOPS_SHARE,
    POINTWISE_ELEMS,
    REGION_FLOPS,
)

# By prefix, not by entry: a FLOP figure that is added later is doubted as well.
OF_FLOPS = tuple(f"infer/{x}" for x in ("flops_", "tau_", "realised_", "saving_realised_", "pass_"))


def unseen(metrics: Metrics, facts: Facts) -> Doubts:
    """Work that one counter saw was executed, whatever the other counted."""
    if facts.flop_doubts:
        why = facts.flop_doubts[0]
    elif facts.unseen_flops:
        why = f"torch's profiler saw {facts.unseen_flops:.3g} FLOPs more in one call"
    elif facts.untracked_kernels:
        why = f"GPU kernels that no torch operation launched: {', '.join(facts.untracked_kernels)}"
    else:
        return
    yield from _all_of_flops(metrics, why)


def none(metrics: Metrics, facts: Facts) -> Doubts:
    """A result that took no product at all came from where no counter looks.

    Or from memory: a table of answers has no FLOPs, and is no method.
    """
    keys = [FLOPS.at(), *(key for key in metrics if FLOPS_BATCHED.match(key) is not None)]
    if any(value(metrics, key) == 0 for key in keys):
        yield from _all_of_flops(metrics, "the model executed no FLOPs: its work was not seen")


def _all_of_flops(metrics: Metrics, why: str) -> Doubts:
    for key in metrics:
        if key.startswith(OF_FLOPS) and key != FLOPS_PROFILER.at():
            yield key, why


def hidden(metrics: Metrics, facts: Facts) -> Doubts:
    """A product written as multiplication and sum, element by element, is not counted as one."""
    found = values(metrics, POINTWISE_ELEMS.at(), FLOPS.at(), FLOPS_SHARE.at())
    if found is None or facts.dense_elems is None or not found[2]:
        return
    elems, flops, share = found  # per sample alone; flops / share: the dense model's
    elems = max(elems, facts.batch_elems or 0)  # products may hide in batches only
    # Dense models have elementwise work too: only a multiple of theirs can hide products.
    if not may_hide_products(elems, facts.dense_elems, flops / share, flops):
        return
    why = (
        f"elementwise work writes {elems:.3g} elements a sample, the dense model's "
        f"{facts.dense_elems:.3g}: products by multiplication and sum are not counted"
    )
    for key in metrics:
        if key.startswith(OF_FLOPS):
            yield key, why


def regions(metrics: Metrics, facts: Facts) -> Doubts:
    """The regions' FLOPs are the whole."""
    # Regions that a method never enters have no metric.
    keys = [key for key in metrics if REGION_FLOPS.match(key) is not None]
    found = values(metrics, FLOPS.at(), *keys) if keys else None
    if found and not same(sum(found[1:]), found[0]):
        for key in keys:
            yield key, f"regions sum to {sum(found[1:]):.6g} FLOPs, the whole is {found[0]:.6g}"
