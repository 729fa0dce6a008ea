"""`measure.robustness=true`: harder inputs than the training's, and inputs without an answer.

    infer/{quality,flops_per_sample,confidence}_{noise}_s{1..5}     a corruption at five severities
    infer/{quality,flops_per_sample,confidence}_clean               the same samples as they are
    infer/{flops_per_sample,confidence}_{garbage,unseen}            no answer is right
    infer/dense_{quality,flops_per_sample,confidence}_...           the dense model on the same
    infer/num_{robustness,unseen}_samples                           how many samples that are

Does the method spend more when it is hard, and does it hold up better than dense? At the default
operating point, on test samples that are drawn once, in batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bench.measure.blind import judged
from bench.measure.inputs import drawn
from bench.measure.quality.corruptions import SEVERITIES, corruptions, garbage
from bench.measure.quality.judge import quality_metric
from bench.measure.subject import Metrics, Subject
from bench.meters.flops.counter import count
from bench.records.record import Metric, missing
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
    """Quality, executed FLOPs and confidence of method and dense model per condition.

    Only for tasks with one answer per sample.
    """
    spec = subject.task.spec
    if spec.causal or spec.kind == "seq2seq":
        return {"infer/quality_clean": missing("1", "robustness is for tasks of classification")}
    metrics: Metrics = {}
    for condition in conditions(subject.task, subject.device):
        if condition.name == "clean":
            num_samples = sum(map(len, condition.batches))
            metrics["infer/num_robustness_samples"] = Metric(value=num_samples, unit="count")
        if condition.name == "unseen":
            num_samples = sum(map(len, condition.batches))
            metrics["infer/num_unseen_samples"] = Metric(value=num_samples, unit="count")
        if (
            subject.method.flags.reads_targets
        ):  # a ceiling's search, once per sample, is not its FLOPs
            _called(subject.model, condition)
        metrics |= _judged(subject.task, judged(subject), condition, "infer/")
        if not subject.is_dense:
            metrics |= _judged(subject.task, baseline, condition, "infer/dense_")
    return metrics


def conditions(task: Task, device: torch.device | str) -> Iterator[Condition]:
    """The clean samples, every corruption of the task at every severity, and no answers."""
    clean = _batched(drawn(task, NUM_SAMPLES), device)
    yield Condition("clean", clean)
    for name, corrupt in corruptions(task).items():
        for severity in SEVERITIES:
            batches = [corrupt(batch, severity, SEED + i) for i, batch in enumerate(clean)]
            yield Condition(f"{name}_s{severity}", batches)
    without = [garbage(batch, seed=SEED + number) for number, batch in enumerate(clean)]
    yield Condition("garbage", without, answerable=False)
    unseen: Callable[[], Batch] | None = getattr(task, "unseen", None)
    if unseen is not None:
        never_seen = unseen()
        order = torch.randperm(len(never_seen), generator=torch.Generator().manual_seed(SEED))
        yield Condition("unseen", _batched(never_seen.select(order), device), answerable=False)


def _batched(samples: Batch, device: torch.device | str) -> list[Batch]:
    """The first NUM_SAMPLES of `samples`, BATCH at a time."""
    rows = torch.arange(min(NUM_SAMPLES, len(samples))).split(BATCH)
    return [samples.select(row).to(device) for row in rows]


def _called(model: nn.Module, condition: Condition) -> None:
    """Calls the model on every batch, uncounted."""
    model.eval()
    with torch.inference_mode():
        for batch in condition.batches:
            model(batch)


def _judged(task: Task, model: nn.Module, condition: Condition, prefix: str) -> Metrics:
    """What one model does under one condition, FLOPs per sample at batch size `BATCH`."""
    watched = Watched(model)
    quality: Quality | None = None
    model.eval()
    with torch.inference_mode():
        if condition.answerable:
            quality = task.evaluate(watched, condition.batches)
        else:
            for batch in condition.batches:
                watched(batch)
    doubt = None if watched.complete else "operations without a FLOP formula"
    per_sample = watched.flops / sum(map(len, condition.batches))
    confidence = float(torch.cat(watched.confidences).mean())
    metrics = {
        f"{prefix}flops_per_sample_{condition.name}": Metric(
            value=per_sample, unit="flop", valid=doubt is None, reason=doubt
        ),
        f"{prefix}confidence_{condition.name}": Metric(value=confidence, unit="1"),
    }
    if quality is not None:
        metrics[f"{prefix}quality_{condition.name}"] = quality_metric(quality)
    return metrics


class Watched:
    """A model whose calls are counted; what a task computes around them is not the model's."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.flops, self.complete = 0, True
        self.confidences: list[Tensor] = []  # the largest softmax probability of every answer

    def __call__(self, batch: Batch) -> Output:
        counted = count(self.model, batch)
        self.flops += counted.total
        self.complete &= counted.complete
        output: Output = counted.result
        self.confidences.append(output.logits.float().softmax(-1).amax(-1))  # [B]
        return output
