"""Losses, accuracy and the trivial baselines of classification."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from bench.tasks.parts.scoring import accuracy, cross_entropy, majority, nearest_neighbour
from bench.types import Batch, Output


class Fixed:
    """Returns the inputs as logits."""

    def __call__(self, batch: Batch) -> Output:
        return Output(batch.inputs)


def test_cross_entropy_of_one_label_per_sample() -> None:
    """Even logits over four classes cost log 4 nats."""
    batch = Batch(torch.zeros(2, 4), torch.tensor([0, 3]))
    assert cross_entropy(Fixed()(batch), batch).item() == pytest.approx(math.log(4))


def test_cross_entropy_leaves_out_positions_without_a_target() -> None:
    """Of logits [1, 2, 2] with targets [1, -100] only the first position counts."""
    logits = torch.tensor([[[0.0, math.log(3.0)], [50.0, -50.0]]])
    batch = Batch(logits, torch.tensor([[1, -100]]))
    # softmax of (0, log 3) is (1/4, 3/4): the target costs log(4/3)
    assert cross_entropy(Output(logits), batch).item() == pytest.approx(math.log(4 / 3))


def test_accuracy_is_the_mean_of_its_per_sample_scores() -> None:
    """Three of four right in batches of 3 and 1: 75 %, scores in data order."""
    right = Batch(torch.eye(3), torch.tensor([0, 1, 0]))
    last = Batch(torch.tensor([[0.0, 2.0, 1.0]]), torch.tensor([1]))
    quality = accuracy(Fixed(), [right, last], num_classes=3, references={"majority": 50.0})
    assert quality.value == 75.0
    assert quality.per_sample == [100.0, 100.0, 0.0, 100.0]
    assert (quality.unit, quality.direction, quality.chance) == ("accuracy %", "higher", 100 / 3)
    assert quality.references == {"majority": 50.0}


def test_accuracy_of_nothing_is_an_error() -> None:
    """No batches: an error, not a score of zero."""
    with pytest.raises(ValueError, match="no batches"):
        accuracy(Fixed(), [], num_classes=3, references={})


def test_majority_predicts_the_most_frequent_training_class() -> None:
    """Class 1 is the most frequent in training and a quarter of the test."""
    assert majority(torch.tensor([0, 1, 1]), torch.tensor([1, 0, 2, 0])) == 25.0


@pytest.mark.parametrize("num_at_once", [1, 2, 256])
def test_nearest_neighbour_takes_the_class_of_the_closest_input(num_at_once: int) -> None:
    """On a line with known points 0, 1 and 5 (classes 0, 1, 2), whatever the size of a chunk."""

    def column(*values: float) -> Tensor:
        return torch.tensor(values)[:, None]

    train = Batch(column(0.0, 1.0, 5.0), torch.tensor([0, 1, 2]))
    test = Batch(column(0.4, 2.9, 3.1, -7.0), torch.tensor([0, 1, 2, 1]))
    assert nearest_neighbour(train, test, num_at_once=num_at_once) == 75.0
