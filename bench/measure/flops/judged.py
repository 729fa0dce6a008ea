"""Is what is counted what was judged? The same logits, and about the same work.

A model may answer well where its quality is judged, in batches, and skip where its FLOPs are
counted, alone. Then either its logits differ, and no FLOP figure belongs to that quality; or they
are equal, it computes everything in a batch and masks, and the row names both costs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bench.measure.findings import Part
from bench.measure.flops.crosscheck import NAME
from bench.measure.judged import Judged
from bench.measure.subject import Subject
from bench.meters.flops.counter import count
from bench.routing import SHORTFALL

# How far logits may move, as a share of their spread: by the order of sums in float32, and by the
# rounding of half precision (a GPU's convolutions round to TF32 even in float32).
MOVED, MOVED_HALF = 0.01, 0.1
# Share of samples (or tokens) that a threshold may decide otherwise by that rounding: one decision
# in ten thousand in float32, one in a hundred in half precision, of hundreds per sequence.
FLIPPED, FLIPPED_HALF = 0.1, 0.5


def measure_judged(subject: Subject, judged: Judged) -> Part:
    """Doubts and notes about the batch that was judged at the default point, counted again.

    Where the task judged no whole call of the model, there is nothing to compare with.
    """
    if judged.batch is None or judged.logits is None or subject.method.flags.reads_targets:
        return Part()
    size, num_kept = len(judged.batch), len(judged.logits)
    total_alone, alone = 0, list[Tensor]()
    with torch.inference_mode():
        subject.model.eval()
        batched = count(subject.model, judged.batch)
        for rows in torch.arange(size, device=judged.batch.inputs.device)[:, None]:
            single = count(subject.model, judged.batch.select(rows))
            total_alone += single.total
            alone += [single.result.logits.cpu()] if len(alone) < num_kept else []
    is_rough = _is_rough(judged.logits, subject.device)
    again = batched.result.logits[:num_kept].cpu()
    doubts = _differing(again, judged.logits, "in that batch", is_rough)
    if subject.method.flags.batch_invariant:
        doubts += _differing(torch.cat(alone), judged.logits, "alone", is_rough)
    in_batch, by_itself = batched.total / size, total_alone / size
    costs = {"flops_judged": in_batch, "flops_judged_alone": by_itself}  # per sample
    return Part(
        diagnostics={NAME: {"doubts": doubts, **costs}}, notes=_notes(in_batch, by_itself, size)
    )


def _differing(found: Tensor, judged: Tensor, how: str, is_rough: bool) -> list[str]:
    """A doubt where more of the logits [B, ..., classes] differ than rounding explains."""
    if found.shape != judged.shape:
        return [f"counted {how}, the logits have another shape than when judged"]
    moved, flipped = (MOVED_HALF, FLIPPED_HALF) if is_rough else (MOVED, FLIPPED)
    limit = moved * float(judged.float().std())
    gaps = (found.float() - judged.float()).abs().amax(-1)  # [B], or [B, T] of tokens
    # Written so that NaN counts as another result, unless both are.
    both_nan = (found.isnan() & judged.isnan()).any(-1)
    num = int((~(gaps <= limit) & ~both_nan).sum())
    if num <= flipped * gaps.numel():
        return []
    share = num / gaps.numel()
    return [f"counted {how}, {share:.0%} of the results are other ones than when they were judged"]


def _is_rough(judged: Tensor, device: torch.device) -> bool:
    """Whether equal work may round to visibly different logits."""
    is_narrow = torch.finfo(judged.dtype).bits < torch.finfo(torch.float32).bits
    return is_narrow or device.type != "cpu" or torch.is_autocast_enabled(device.type)


def _notes(batched: float, alone: float, size: int) -> list[str]:
    if abs(batched - alone) <= SHORTFALL * max(batched, alone) or not alone:
        return []
    return [
        f"in batches of {size}, where quality is judged, a sample takes {batched / alone:.2g} "
        "times its FLOPs alone"
    ]
