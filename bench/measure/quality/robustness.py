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

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from bench.measure.blind import model_to_evaluate
from bench.measure.findings import Part
from bench.measure.inputs import draw_samples
from bench.measure.metrics import metric
from bench.measure.quality.corruptions import SEVERITIES, corruptions, garbage
from bench.measure.quality.finite import Answers
from bench.measure.quality.judge import quality_metric
from bench.measure.subject import Metrics, Subject
from bench.meters.flops.counter import count
from bench.records import catalogue
from bench.records.catalogue import ROBUST_SAMPLES, UNSEEN_SAMPLES
from bench.records.entry import Entry
from bench.records.record import missing
from bench.types import Batch, Output, Quality, Task, extras_of

NUM_SAMPLES, BATCH = 512, 64
SEED = 0  # of the corruptions: the same for every method, model seed and machine


@dataclass(frozen=True)
class Condition:
    """Test inputs in one state; `answerable` where some answer is right."""

    name: str
    batches: list[Batch]
    answerable: bool = True

    @property
    def num_samples(self) -> int:
        """Samples in all batches."""
        return sum(map(len, self.batches))


class _Entries(NamedTuple):
    quality: Entry
    flops: Entry
    confidence: Entry


OWN = _Entries(catalogue.QUALITY_UNDER, catalogue.FLOPS_UNDER, catalogue.CONFIDENCE_UNDER)
DENSE = _Entries(
    catalogue.DENSE_QUALITY_UNDER, catalogue.DENSE_FLOPS_UNDER, catalogue.DENSE_CONFIDENCE_UNDER
)
# Corruptions have as many samples as the clean condition.
NUM_SAMPLES_OF = {"clean": ROBUST_SAMPLES, "unseen": UNSEEN_SAMPLES}


def measure_robustness(subject: Subject, baseline: nn.Module) -> Part:
    """Quality, executed FLOPs and confidence of method and dense model per condition.

    Only for tasks with one answer per sample.
    """
    spec = subject.task.spec
    if spec.causal or spec.kind == "seq2seq":
        # In unit 1: a score that is not defined has no unit either.
        reason = "robustness is for tasks of classification"
        return Part({OWN.quality.at("clean"): missing("1", reason)})
    metrics: Metrics = {}
    for condition in conditions(subject.task, subject.device):
        if entry := NUM_SAMPLES_OF.get(condition.name):
            metrics[entry.at()] = metric(entry, condition.num_samples)
        if subject.method.flags.reads_targets:
            # An oracle's search, once per sample, is not its FLOPs.
            _run_uncounted(subject.model, condition)
        metrics |= _measure_under(subject.task, model_to_evaluate(subject), condition, OWN)
        if not subject.is_dense:
            metrics |= _measure_under(subject.task, baseline, condition, DENSE)
    return Part(metrics)


def conditions(task: Task, device: torch.device | str) -> Iterator[Condition]:
    """The clean samples, every corruption of the task at every severity, and no answers."""
    clean = _batched(draw_samples(task, NUM_SAMPLES), device)
    yield Condition("clean", clean)
    for name, corrupt in corruptions(task).items():
        for severity in SEVERITIES:
            # Each batch has a seed of its own, or all batches would get the same noise.
            batches = [corrupt(batch, severity, SEED + i) for i, batch in enumerate(clean)]
            yield Condition(f"{name}_s{severity}", batches)
    without = [garbage(batch, seed=SEED + number) for number, batch in enumerate(clean)]
    yield Condition("garbage", without, answerable=False)
    unseen = extras_of(task).unseen
    if unseen is not None:
        never_seen = unseen()
        # Shuffled: a task may have sorted them by where they come from.
        order = torch.randperm(len(never_seen), generator=torch.Generator().manual_seed(SEED))
        yield Condition("unseen", _batched(never_seen.select(order), device), answerable=False)


def _batched(samples: Batch, device: torch.device | str) -> list[Batch]:
    """The first NUM_SAMPLES of `samples`, BATCH at a time."""
    rows = torch.arange(min(NUM_SAMPLES, len(samples))).split(BATCH)
    return [samples.select(row).to(device) for row in rows]


def _run_uncounted(model: nn.Module, condition: Condition) -> None:
    """Run the model on every batch once, before it is counted."""
    model.eval()
    with torch.inference_mode():
        for batch in condition.batches:
            model(batch)


def _measure_under(
    task: Task, model: nn.Module, condition: Condition, entries: _Entries
) -> Metrics:
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
    per_sample = watched.flops / condition.num_samples
    # Over all answers; the FLOPs are those of the model alone, batched.
    confidence = float(torch.cat(watched.confidences).mean())
    name = condition.name
    metrics = {
        entries.flops.at(name): metric(entries.flops, per_sample, doubt),
        entries.confidence.at(name): metric(entries.confidence, confidence),
    }
    if quality is not None:
        metrics[entries.quality.at(name)] = quality_metric(watched.answers.judge(quality))
    return metrics


class Watched:
    """A model whose calls are counted; what a task computes around them is not the model's."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.flops, self.complete = 0, True
        self.answers = Answers()
        self.confidences: list[Tensor] = []  # the largest softmax probability of every answer

    def __call__(self, batch: Batch) -> Output:
        counted = count(self.model, batch)  # one call: not what the task computes around it
        self.flops += counted.total
        self.complete &= counted.complete
        output: Output = counted.result
        self.answers.hear(batch, output)
        self.confidences.append(output.logits.float().softmax(-1).amax(-1))  # [B]
        return output
