"""`measure.robustness=true`: harder inputs than the training's, and inputs without an answer.

    infer/{quality,flops_per_sample,confidence}_{noise}_s{1..5}     a corruption at five severities
    infer/{quality,flops_per_sample,confidence}_clean               the same samples as they are
    infer/{flops_per_sample,confidence}_{garbage,unseen}            no answer is right
    infer/dense_quality_..., infer/dense_confidence_...             the dense model on the same inputs

Does the method spend more when it is hard, and does it hold up better than dense? At the default
operating point, on the first test samples, in batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bench.measure.quality import quality_metric
from bench.measure.subject import Metrics, Subject
from bench.meters.flops import count
from bench.record import Metric
from bench.tasks.corruptions import KINDS, SEVERITIES, corrupted, garbage
from bench.types import Batch, Output, Quality, Task

NUM_SAMPLES, BATCH = 512, 64
SEED = 0  # of the corruptions: the same for every method, model seed and machine


@dataclass(frozen=True)
class Condition:
    """Test inputs in one state; `answerable` where some answer is right."""

    name: str
    batches: list[Batch]
    answerable: bool = True


def measure_robustness(subject: Subject, baseline: nn.Module) -> Metrics:
    """Quality, executed FLOPs and confidence of method and dense model per condition."""
    metrics: Metrics = {}
    for condition in conditions(subject.task, subject.device):
        metrics |= _judged(subject.task, subject.model, condition, "infer/")
        if not subject.is_dense:
            dense = _judged(subject.task, baseline, condition, "infer/dense_")
            metrics |= {key: value for key, value in dense.items() if "flops" not in key}
    return metrics


def conditions(task: Task, device: torch.device | str) -> Iterator[Condition]:
    """The clean samples, every corruption of the task's kind at every severity, and no answers."""
    clean = [batch.to(device) for batch in _first(task)]
    yield Condition("clean", clean)
    for kind in KINDS[task.spec.kind]:
        for severity in SEVERITIES:
            batches = [
                corrupted(batch, kind, severity, seed=SEED + number)
                for number, batch in enumerate(clean)
            ]
            yield Condition(f"{kind}_s{severity}", batches)
    without = [garbage(batch, seed=SEED + number) for number, batch in enumerate(clean)]
    yield Condition("garbage", without, answerable=False)
    unseen: Callable[[], Batch] | None = getattr(task, "unseen", None)
    if unseen is not None:
        whole = unseen()
        rows = torch.arange(min(NUM_SAMPLES, len(whole))).split(BATCH)
        batches = [whole.select(row).to(device) for row in rows]
        yield Condition("unseen", batches, answerable=False)


def _first(task: Task) -> list[Batch]:
    """The first test samples in data order."""
    batches = iter(task.batches("test", BATCH))
    return [batch for _, batch in zip(range(NUM_SAMPLES // BATCH), batches, strict=False)]


def _judged(task: Task, model: nn.Module, condition: Condition, prefix: str) -> Metrics:
    """What one model does under one condition, FLOPs per sample at batch size `BATCH`."""
    confidences: list[Tensor] = []

    def watched(batch: Batch) -> Output:
        output: Output = model(batch)
        confidences.append(_confidence(output.logits, batch))
        return output

    def work() -> Quality | None:
        if condition.answerable:
            return task.evaluate(watched, condition.batches)
        for batch in condition.batches:
            watched(batch)
        return None

    model.eval()
    with torch.inference_mode():
        counted = count(work)
    doubt = None if counted.complete else "operations without a FLOP formula"
    issued = sum(map(len, condition.batches))
    metrics = {
        f"{prefix}flops_per_sample_{condition.name}": Metric(
            value=counted.total / issued, unit="flop", valid=doubt is None, reason=doubt
        ),
        f"{prefix}confidence_{condition.name}": Metric(
            value=float(torch.cat(confidences).mean()), unit="1"
        ),
    }
    if counted.result is not None:
        metrics[f"{prefix}quality_{condition.name}"] = quality_metric(counted.result)
    return metrics


def _confidence(logits: Tensor, batch: Batch) -> Tensor:
    """The largest softmax probability of every answer, real positions only, [N]."""
    largest = logits.float().softmax(-1).amax(-1)  # [B] or [B, T]
    if largest.dim() == 2 and batch.mask is not None and batch.mask.shape == largest.shape:
        return largest[batch.mask]
    return largest.flatten()
