"""`condbench check` of a task: data, splits, loss and score are what the contract says.

On all samples of the test and calibration splits, and of the train split as far as NUM_READ.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bench.check.contract import Broken, NotDefined
from bench.types import Batch, Output, Quality, Task, extras_of

SPLITS = ("train", "calibration", "test")
BATCH, NUM_READ = 64, 4096
NO_TARGET = -100


@dataclass
class TaskCandidate:
    """The task that is examined, with what trying a contract needs to name it."""

    name: str
    method: Task  # the plugin's instance

    @property
    def task(self) -> str:
        """Kind and shape."""
        spec = self.method.spec
        shape = " x ".join(str(size) for size in spec.input_shape)
        return f"{spec.kind} of {shape}, {spec.num_outputs} outputs"

    @property
    def cls(self) -> type:
        """The class whose lines a finding names."""
        return type(self.method)

    plugin_formula_ops: frozenset[str] = frozenset()

    def set_default(self) -> None:
        """A task has no operating points."""


def spec_is_data(candidate: TaskCandidate) -> None:
    """Shapes, classes and numbers of samples are those that the task states."""
    task = candidate.method
    for split in SPLITS:
        num = 0
        for batch in _read(task, split):
            _must_fit(task, split, batch)
            num += len(batch)
        stated = task.num_samples(split)  # type: ignore[arg-type]
        whole = stated - stated % BATCH if split == "train" else stated  # a ragged last is dropped
        if num != min(whole, _limit(split, whole)):
            raise Broken(f"{split}: {num} samples are read, num_samples says {stated}")


def order_is_seeded(candidate: TaskCandidate) -> None:
    """The same seed gives the same pass, another seed another one, and no seed data order."""
    task = candidate.method

    def first(seed: int | None) -> Batch:
        return next(iter(task.batches("train", min(BATCH, task.num_samples("train")), seed=seed)))

    for seed in (0, None):
        if not torch.equal(first(seed).inputs, first(seed).inputs):
            raise Broken(f"batches(seed={seed}) begins with other samples the second time")
    if torch.equal(first(0).inputs, first(1).inputs):
        raise Broken("batches(seed=0) and batches(seed=1) begin with the same samples")


def splits_are_apart(candidate: TaskCandidate) -> None:
    """A test input that was trained or calibrated on is no test."""
    test = _hashes(candidate.method, "test")
    for split in ("train", "calibration"):
        if both := len(test & _hashes(candidate.method, split)):
            raise Broken(f"{both} inputs of the test split are in the {split} split too")


def trains(candidate: TaskCandidate) -> None:
    """The loss of random logits is a finite number, and its gradient too."""
    batch = next(_read(candidate.method, "train"))
    logits = _logits(candidate.method, batch).requires_grad_()
    loss = candidate.method.criterion(Output(logits), batch)
    if loss.numel() != 1 or not bool(loss.isfinite().all()):
        raise Broken(f"the criterion gives {loss.tolist()} for random logits")
    loss.backward()
    if logits.grad is None or not bool(logits.grad.isfinite().all()):
        raise Broken("the criterion has no finite gradient")


def scores(candidate: TaskCandidate) -> None:
    """A model that has the answers beats one that guesses; one score per sample, if any."""
    task = candidate.method
    guessed = _evaluated(task, lambda batch: Output(_logits(task, batch)))
    num = task.num_samples("test")
    if guessed.per_sample is not None and len(guessed.per_sample) != num:
        raise Broken(f"{len(guessed.per_sample)} scores per sample for {num} samples")
    if not math.isfinite(guessed.value):
        raise Broken(f"evaluate() gives {guessed.value} for random logits")
    if task.spec.kind == "seq2seq":
        raise NotDefined("sequences are decoded step by step: no table of answers can be given")
    right = _evaluated(task, lambda batch: Output(_answers(task, batch)))
    if not right.beats(guessed.value):
        raise Broken(f"the right answers score {right.value:.4g}, guesses {guessed.value:.4g}")


def is_hashed(candidate: TaskCandidate) -> None:
    """The hash is a part of every trial's key: one that changes makes every result stale."""
    found = [candidate.method.data_hash() for _ in range(2)]
    if not isinstance(found[0], str) or not found[0] or found[0] != found[1]:
        raise Broken(f"data_hash() gives {found[0]!r} and then {found[1]!r}")


def extras_fit(candidate: TaskCandidate) -> None:
    """Attributes have an entry per sample, stated sizes are those of the splits."""
    task, extras = candidate.method, extras_of(candidate.method)
    if not (extras.split_sizes or extras.attributes):
        raise NotDefined("the task declares neither sizes nor attributes")
    for split, size in extras.split_sizes.items():
        if size != task.num_samples(split):
            raise Broken(f"split_sizes[{split!r}] is {size}, num_samples {task.num_samples(split)}")
    for name, values in (extras.attributes("test") if extras.attributes else {}).items():
        if len(values) != task.num_samples("test"):
            raise Broken(f"attribute {name!r}: {len(values)} values for the test split")


def _read(task: Task, split: str) -> Iterator[Batch]:
    """The batches of a split in data order, of train at most NUM_READ samples."""
    num = 0
    for batch in task.batches(split, BATCH):  # type: ignore[arg-type]
        yield batch
        num += len(batch)
        if num >= _limit(split, num + 1):
            return


def _limit(split: str, size: int) -> int:
    return NUM_READ if split == "train" else size


def _must_fit(task: Task, split: str, batch: Batch) -> None:
    spec = task.spec
    found = tuple(batch.inputs.shape[1:])
    if found != tuple(spec.input_shape):
        raise Broken(f"{split}: inputs {list(found)}, the spec says {list(spec.input_shape)}")
    if batch.mask is not None and batch.mask.dtype != torch.bool:
        raise Broken(f"{split}: the mask is {batch.mask.dtype}, not bool")
    for what, values, size in (
        ("targets", batch.targets[batch.targets != NO_TARGET], spec.num_outputs),
        ("inputs", batch.inputs, spec.vocab_size),
    ):
        if size is None or not values.numel():
            continue
        low, high = int(values.min()), int(values.max())
        if low < 0 or high >= size:
            raise Broken(f"{split}: {what} from {low} to {high}, the spec has {size} of them")


def _logits(task: Task, batch: Batch) -> Tensor:
    """Random ones, the same for the same shape."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(*batch.targets.shape, task.spec.num_outputs, generator=generator)


def _answers(task: Task, batch: Batch) -> Tensor:
    """Logits that are certain of every target."""
    classes = batch.targets.clamp(min=0)
    return 20.0 * torch.nn.functional.one_hot(classes, task.spec.num_outputs).float()


def _evaluated(task: Task, answer: Callable[[Batch], Output]) -> Quality:
    model: Any = answer
    batches: Iterable[Batch] = task.batches("test", BATCH)
    return task.evaluate(model, batches)


def _hashes(task: Task, split: str) -> set[bytes]:
    """One hash per input, with its decoder inputs left out."""
    return {
        hashlib.sha256(row.numpy().tobytes()).digest()
        for batch in _read(task, split)
        for row in batch.inputs.contiguous()
    }
