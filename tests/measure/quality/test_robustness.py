"""Robustness: every condition by hand on a model that spends more when it is unsure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import pytest
import torch
from torch import nn

from bench.config import MeasureConfig
from bench.measure.quality.robustness import conditions, measure_robustness
from bench.measure.subject import Subject
from bench.records.record import Metric
from bench.tasks.multitask import Multitask
from bench.tasks.parts.preloaded import iterate_batches
from bench.types import Batch, Extras, Output, Quality, TaskSpec
from tests.fakes.methods import method_of

SPEC = TaskSpec("t", "image", (1, 4, 4), 2)


class Images:
    """96 images, white (class 1) or black (class 0), and grey ones that are neither."""

    spec = SPEC

    def num_samples(self, split: str) -> int:
        return 96

    def batches(self, split: str, size: int, *, seed: int | None = None) -> Iterator[Batch]:
        assert split == "test"
        classes = torch.arange(96) % 2
        images = (2.0 * classes - 1)[:, None, None, None].expand(96, 1, 4, 4)
        yield from iterate_batches(Batch(images, classes), size, seed=seed)

    def evaluate(self, model, batches: Iterable[Batch]) -> Quality:
        """Accuracy; its own arithmetic is not the model's."""
        _ = torch.ones(50, 50) @ torch.ones(50, 50)
        right = [model(batch).logits.argmax(-1) == batch.targets for batch in batches]
        return Quality(100.0 * float(torch.cat(right).double().mean()), "accuracy %", "higher")

    @property
    def extras(self) -> Extras:
        return Extras(unseen=self.unseen)

    def unseen(self) -> Batch:
        return Batch(torch.zeros(8, 1, 4, 4), torch.full((8,), -100))


class Sorted(Images):
    """600 black images, then 600 white ones, as a task of several tasks keeps them."""

    def num_samples(self, split: str) -> int:
        return 1200

    def batches(self, split: str, size: int, *, seed: int | None = None) -> Iterator[Batch]:
        classes = torch.arange(1200) // 600
        images = (2.0 * classes - 1)[:, None, None, None].expand(1200, 1, 4, 4)
        yield from iterate_batches(Batch(images, classes), size, seed=seed)


class Brightness(nn.Module):
    """White or black, by the mean; works twice on images that are neither (32 FLOPs each time)."""

    def forward(self, batch: Batch) -> Output:
        flat = batch.inputs.flatten(1)  # [B, 16]
        mean = (flat @ torch.ones(16, 1)) / 16  # 2 x 16 FLOPs per sample
        unsure = flat[mean[:, 0].abs() < 0.5]
        if len(unsure):
            _ = unsure @ torch.ones(16, 1)
        return Output(torch.cat([-mean, mean], 1))


def _subject(spec: TaskSpec = SPEC) -> Subject:
    task = Images()
    task.spec = spec
    return Subject(
        model=Brightness(),
        method=method_of(),
        task=task,  # type: ignore[arg-type]
        device=torch.device("cpu"),
        config=MeasureConfig(robustness=True),
        make_baseline=Brightness,
        is_dense=False,
    )


def test_conditions_are_the_kinds_corruptions_and_no_answers() -> None:
    """Clean, four corruptions at five severities, garbage and an unseen class: 23."""
    found = list(conditions(Images(), "cpu"))  # type: ignore[arg-type]
    names = [condition.name for condition in found]
    assert len(names) == 1 + 4 * 5 + 2
    assert names[0] == "clean"
    assert {"noise_s1", "blur_s5", "contrast_s3", "shift_s2", "garbage", "unseen"} < set(names)
    assert [c.name for c in found if not c.answerable] == ["garbage", "unseen"]
    assert all(sum(map(len, c.batches)) == 96 for c in found if c.name != "unseen")


def test_the_samples_are_drawn_from_the_whole_test_split() -> None:
    """512 of 1,200, both halves of a sorted split among them, and the same 512 every time."""
    first, again = (next(conditions(Sorted(), "cpu")) for _ in range(2))  # type: ignore[arg-type]
    targets = torch.cat([batch.targets for batch in first.batches])
    assert len(targets) == 512
    assert 200 < int(targets.sum()) < 312  # 256 +- 5 standard deviations of 11
    assert torch.equal(targets, torch.cat([batch.targets for batch in again.batches]))
    assert max(map(len, first.batches)) == 64


def test_both_tasks_of_multitask_are_tried() -> None:
    """Digits come first in the data and are not the only ones that are corrupted."""
    task = Multitask()
    clean = next(conditions(task, "cpu"))
    targets = torch.cat([batch.targets for batch in clean.batches])
    assert set((targets >= 10).tolist()) == {False, True}


def test_the_record_says_how_many_samples_there_were() -> None:
    """96 test samples are all tried."""
    found = measure_robustness(_subject(), Brightness()).metrics
    assert found["infer/num_robustness_samples"] == Metric(value=96, unit="count")


def test_a_method_spends_more_on_what_it_cannot_tell() -> None:
    """White or black 32 FLOPs and right, grey 64; what the task computes is not the model's."""
    part = measure_robustness(_subject(), Brightness())
    found = {key: metric.shown for key, metric in part.metrics.items()}
    assert found["infer/quality_clean"] == 100.0
    assert found["infer/flops_per_sample_clean"] == 32
    assert found["infer/flops_per_sample_unseen"] == 64
    # softmax of (-1, 1) and of (0, 0)
    assert found["infer/confidence_clean"] == pytest.approx(1 / (1 + torch.tensor(-2.0).exp()))
    assert found["infer/confidence_unseen"] == pytest.approx(0.5)
    assert found["infer/quality_blur_s5"] == 100.0  # an even image has nothing to blur
    assert "infer/quality_garbage" not in found


def test_the_dense_model_sees_the_same_inputs() -> None:
    """Beside an equal model quality, FLOPs and confidence are equal, also of random corruptions."""
    found = measure_robustness(_subject(), Brightness()).metrics
    for name in ("clean", "noise_s5", "shift_s3"):
        for quantity in ("quality", "flops_per_sample", "confidence"):
            own, dense = (found[f"infer/{who}{quantity}_{name}"] for who in ("", "dense_"))
            assert own == dense


def test_inputs_never_seen_are_drawn_from_all_of_them() -> None:
    """512 of 1,200 that are sorted by where they come from: both halves are among them."""

    class ManyUnseen(Images):
        def unseen(self) -> Batch:
            images = (torch.arange(1200) // 600).float()[:, None, None, None].expand(-1, 1, 4, 4)
            return Batch(images, torch.full((1200,), -100))

    first, again = (list(conditions(ManyUnseen(), "cpu"))[-1] for _ in range(2))  # type: ignore[arg-type]
    drawn, same = (torch.cat([b.inputs for b in c.batches])[:, 0, 0, 0] for c in (first, again))
    assert len(drawn) == 512
    assert 200 < int(drawn.sum()) < 312
    assert torch.equal(drawn, same)


def test_the_record_says_how_many_were_never_seen() -> None:
    """Eight, where 96 were corrupted."""
    found = measure_robustness(_subject(), Brightness()).metrics
    assert found["infer/num_unseen_samples"] == Metric(value=8, unit="count")


class Searching(Brightness):
    """Looks for the best answer to a batch when it first meets it."""

    def __init__(self) -> None:
        super().__init__()
        self.met: set[float] = set()

    def forward(self, batch: Batch) -> Output:
        key = float(batch.inputs.double().sum() + 1e3 * len(batch))
        if key not in self.met:
            self.met.add(key)
            _ = torch.ones(50, 50) @ torch.ones(50, 50)
        return super().forward(batch)


def test_the_search_of_an_oracle_is_not_its_compute() -> None:
    """A method that decides in hindsight searches on what it first meets: 32 FLOPs, as clean."""
    subject = replace(_subject(), model=Searching(), method=method_of(reads_targets=True))
    found = measure_robustness(subject, Brightness()).metrics
    for name in ("clean", "contrast_s1", "blur_s5"):
        assert found[f"infer/flops_per_sample_{name}"].shown == 32


def test_only_classification_is_measured() -> None:
    """A language model has no answer per sample: the metric is missing with that reason."""
    spec = TaskSpec("t", "tokens", (6,), 5, vocab_size=5, causal=True)
    found = measure_robustness(_subject(spec), Brightness()).metrics
    assert "classification" in str(found["infer/quality_clean"].reason)
