"""Speculative decoding: how many drafts a verification accepts, and what they cost.

    by_batch        by batch size:
      acceptance_length         drafts accepted per verification, mean over samples
      tokens_per_verification   tokens that a verification of the whole batch adds
      drafts_per_verification   drafts that it reads
      num_verifications         how many were seen
    draft_flops_share   FLOPs of drafting (the region `router`), as a share of all
    reasons             why a field is null

A method announces what a verification accepted as the decision ACCEPTED, [B, drafts].
"""

from __future__ import annotations

from statistics import mean
from typing import Any

import torch

from bench import routing
from bench.measure.findings import Part
from bench.measure.inputs import Inputs
from bench.measure.subject import Metrics, Subject
from bench.records.catalogue import FLOPS
from bench.routing import Decision

ACCEPTED = "accepted"
Entry = dict[str, Any]


def measure_speculation(subject: Subject, inputs: Inputs, metrics: Metrics) -> Part:
    """The entry `speculation` of a generating subject; empty where it drafts nothing."""
    by_batch = {size: _watch(subject, inputs, size) for size in sorted(inputs.by_size)}
    found = {f"b{size}": summary(seen) for size, seen in by_batch.items() if seen}
    if not found:
        return Part()
    reasons: dict[str, str] = {}
    whole, spent = metrics[FLOPS.at()].shown, metrics.get("infer/flops_router")
    share = None
    if whole and spent is not None and spent.shown is not None:
        share = spent.shown / whole
    else:
        reasons["draft_flops_share"] = "FLOPs are not known, or none are in the region 'router'"
    entry = {"by_batch": found, "draft_flops_share": share, "reasons": reasons}
    return Part(diagnostics={"speculation": entry})


def _watch(subject: Subject, inputs: Inputs, size: int) -> list[Decision]:
    """What verifications accepted over the batches of one size."""
    seen: list[Decision] = []
    for batch in inputs.by_size[size]:
        with torch.inference_mode(), routing.observe() as pass_:
            subject.model.eval()(batch)
        seen += [each for each in pass_.decisions if each.name == ACCEPTED]
    return seen


def summary(seen: list[Decision]) -> Entry:
    """The numbers of one batch size; `run` of a decision is true for accepted drafts."""
    accepted = [each.run.sum(1) for each in seen]  # each [B]
    return {
        "acceptance_length": float(torch.cat(accepted).double().mean()),
        # A batch continues from what all of its samples accept, and with the verifier's own token.
        "tokens_per_verification": mean(int(each.min()) + 1 for each in accepted),
        "drafts_per_verification": mean(each.run.shape[1] for each in seen),
        "num_verifications": len(seen),
    }
