"""Character modelling: windows, splits and baselines."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch

from bench.tasks import text
from bench.tasks.parts.preloaded import SPLITS
from bench.tasks.text import Text
from bench.types import Batch, Output, Split, Task


class Even:
    """Predicts the uniform distribution."""

    def __call__(self, batch: Batch) -> Output:
        return Output(torch.zeros(*batch.inputs.shape, len(text.alphabet())))


class Copier:
    """Predicts the targets with a probability of almost 1."""

    def __call__(self, batch: Batch) -> Output:
        return Output(40.0 * torch.nn.functional.one_hot(batch.targets, len(text.alphabet())))


def test_it_is_a_causal_token_task() -> None:
    """Position t is to predict the character at t + 1, over the whole window."""
    task = Text()
    assert isinstance(task, Task)
    assert task.spec.causal
    assert task.spec.num_outputs == task.spec.vocab_size == len(text.alphabet())
    for batch in task.batches("test", 50):
        assert batch.inputs.shape[1:] == task.spec.input_shape
        assert torch.equal(batch.inputs[:, 1:], batch.targets[:, :-1])


def test_windows_read_as_the_text() -> None:
    """Symbols are places in the alphabet: a window spelt out is a passage of the corpus."""
    window = Text().samples()["test"].inputs[7]
    assert "".join(text.alphabet()[symbol] for symbol in window) in text.corpus()


def spelt(split: Split) -> list[str]:
    """The pieces of a split in characters."""
    alphabet = text.alphabet()
    return ["".join(alphabet[symbol] for symbol in piece) for piece in text._pieces()[split]]


def test_the_test_is_not_in_training() -> None:
    """Less than one in twenty of the test's runs of 48 characters is also in training."""

    def runs(split: Split) -> set[str]:
        return {p[i : i + 48] for p in spelt(split) for i in range(len(p) - 47)}

    train, test = runs("train"), runs("test")
    assert len(test) > 30_000
    assert len(test & train) < 0.05 * len(test)


def test_splits_are_the_text_cut_into_pieces() -> None:
    """Piece k of ten is for calibration (k = 4), the test (k = 9) or training, in their order."""
    splits: dict[Split, Iterator[str]] = {split: iter(spelt(split)) for split in SPLITS}
    whole = text.corpus()
    for number in range(len(whole) // text.PIECE):
        split: Split = {4: "calibration", 9: "test"}.get(number % 10, "train")  # type: ignore[assignment]
        assert next(splits[split]) == whole[number * text.PIECE : (number + 1) * text.PIECE]
    assert [list(rest) for rest in splits.values()] == [[], [], []]


def test_even_guessing_is_chance() -> None:
    """Even logits cost log2 of the alphabet, which is the stated chance."""
    task = Text()
    quality = task.evaluate(Even(), task.batches("test", 100))
    assert quality.value == pytest.approx(math.log2(len(text.alphabet())))
    assert quality.value == pytest.approx(quality.chance)
    assert (quality.unit, quality.direction) == ("bits/character", "lower")


def test_a_perfect_model_needs_no_bits() -> None:
    """A perfect model scores 0 bits; the value is the mean of one score per window."""
    task = Text(length=32)
    quality = task.evaluate(Copier(), task.batches("test", 64))
    assert quality.value == pytest.approx(0.0, abs=1e-6)
    assert quality.per_sample is not None
    assert len(quality.per_sample) == task.num_samples("test")


def test_longer_n_grams_do_better_on_english() -> None:
    """The baselines are 1-, 2-, 3- and 5-grams, each better than the one before."""
    references = Text().evaluate(Even(), Text().batches("test", 300)).references
    assert list(references) == ["1-gram", "2-gram", "3-gram", "5-gram"]
    bits = list(references.values())
    assert bits == sorted(bits, reverse=True)
    assert bits[0] < math.log2(len(text.alphabet()))


@pytest.mark.parametrize("length", [1, 4096])
def test_a_window_that_does_not_fit_is_rejected(length: int) -> None:
    """A window longer than a piece, or of a single character, is an error that names the limits."""
    with pytest.raises(ValueError, match="must be at least 2 and at most 4095"):
        Text(length=length)


def test_the_length_changes_the_data_and_its_hash() -> None:
    """Another window length is other data: trials of different lengths never share a key."""
    assert Text(length=32).data_hash() != Text().data_hash() == Text().data_hash()


def test_training_can_be_cut_for_text_alone() -> None:
    """`steps` is the recipe's length: an experiment of several tasks can shorten this one."""
    assert Text(steps=220).recipe.steps == 220
    assert Text(steps=220).recipe.lr == Text().recipe.lr
    assert Text(steps=220).data_hash() == Text().data_hash()
    with pytest.raises(ValueError, match="steps=-1: must be at least 0"):
        Text(steps=-1)
