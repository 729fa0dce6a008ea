"""Answers that are none: logits that are not finite, counted while a task evaluates a model.

An argmax over NaN is a class like any other, so that an accuracy alone does not show them.
"""

from __future__ import annotations

import math
from dataclasses import replace

from torch import Tensor

from bench.measure.quality.corruptions import NO_TARGET
from bench.types import Batch, Output, Quality

SMALLEST_PERCENT = 0.1  # smaller ones are named as smaller than this


class Answers:
    """What a model answered while a task evaluated it: how many samples it left without one."""

    def __init__(self) -> None:
        self._num_samples = 0
        self._counts: list[Tensor] = []  # on the device: a sum at the end waits for it once

    def hear(self, batch: Batch, output: Output) -> None:
        """Count the samples of one call; `batch` has the targets."""
        self._num_samples += len(batch)
        self._counts.append(without_answer(batch, output.logits).sum())

    def judge(self, quality: Quality) -> Quality:
        """The quality that the task found, or none with the share of such samples as the reason."""
        num = sum(int(count) for count in self._counts)
        if not num:
            return quality
        percent = 100.0 * num / self._num_samples
        small = percent < SMALLEST_PERCENT
        share = f"less than {SMALLEST_PERCENT}" if small else f"{percent:.3g}"
        # NaN, so that nothing chooses or compares by it.
        return replace(
            quality,
            value=math.nan,
            more=dict.fromkeys(quality.more, math.nan),
            per_sample=None,
            reason=f"the logits of {share} % of the inputs are not finite",
        )


def without_answer(batch: Batch, logits: Tensor) -> Tensor:
    """Samples with NaN or infinity among the logits that are scored, bool [B].

    Minus infinity rules a class out and is no fault, unless it rules out all.
    """
    if logits.dim() < 2:
        logits = logits[:, None]
    # NaN and infinity win a maximum, minus infinity only against itself.
    faulty = ~logits.amax(-1).isfinite()  # [B], or [B, T] of positions
    for scored in (batch.targets != NO_TARGET, batch.mask):
        if scored is not None and scored.shape == faulty.shape:
            faulty = faulty & scored
    return faulty.flatten(1).any(1) if faulty.dim() > 1 else faulty
