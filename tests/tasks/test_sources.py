"""The attribute `source`: which original a sample is made from."""

from __future__ import annotations

import pytest
import torch

from bench.tasks import keywords
from bench.tasks.digits import SOURCES, Digits
from bench.tasks.keywords import Keywords
from bench.tasks.multitask import Multitask
from bench.tasks.text import PIECE, Text
from bench.tasks.topics import LENGTH, Topics
from bench.types import Split, Task, extras_of

TASKS: tuple[Task, ...] = (Digits(), Text(), Topics(), Keywords(), Multitask())


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.spec.name)
@pytest.mark.parametrize("split", ["calibration", "test"])
def test_every_sample_has_one(task: Task, split: Split) -> None:
    """One number per sample, and fewer originals than samples."""
    attributes = extras_of(task).attributes
    assert attributes is not None
    source = attributes(split)["source"]
    assert source.shape == (task.num_samples(split),)
    assert 1 < len(source.unique()) < len(source)


def test_digits_of_one_source_have_one_label() -> None:
    """A handwritten digit keeps its class in every distortion; all of the split are used."""
    task, source = Digits(), Digits().attributes("test")["source"]
    labels = task.samples()["test"].targets
    assert len(source.unique()) == SOURCES["test"].stop - SOURCES["test"].start
    for original in range(20):
        assert len(labels[source == original].unique()) == 1


def test_windows_of_one_piece() -> None:
    """A piece of 4,096 characters holds (4096 - 49) // 48 + 1 = 85 windows of 48 and a target."""
    counts = Text().attributes("test")["source"].bincount()
    assert counts.unique().tolist() == [(PIECE - 49) // 48 + 1]


def test_passages_of_one_docstring_have_one_package() -> None:
    """A docstring belongs to one package; some have several passages."""
    batch, source = Topics().samples()["test"], Topics().attributes("test")["source"]
    assert batch.inputs.shape[1] == LENGTH
    pairs = torch.stack([source, batch.targets], 1).unique(dim=0)
    assert len(pairs) == len(source.unique())


def test_speakers() -> None:
    """Ten speakers in the test, each with all ten words; a mixture keeps both tasks apart."""
    source = Keywords().attributes("test")["source"]
    assert len(source.unique()) == keywords.NUM_SPEAKERS["test"]
    words = Keywords().samples()["test"].targets
    assert len(words[source == 3].unique()) == len(keywords.KEYWORDS)
    mixed = Multitask().attributes("test")
    shared = set(mixed["source"][mixed["task"] == 0].tolist()) & set(
        mixed["source"][mixed["task"] == 1].tolist()
    )
    assert not shared
