"""Inputs of a given shape: what a model is built for, and batches that it runs on."""

from __future__ import annotations

import math

import pytest
import torch

from bench.tasks.shapes import Shapes
from bench.types import Batch, Task


@pytest.mark.parametrize(
    ("settings", "inputs", "targets"),
    [
        ({"shape": [3, 8, 6]}, (2, 3, 8, 6), (2,)),
        ({"kind": "audio", "shape": [4, 9]}, (2, 4, 9), (2,)),
        ({"kind": "tokens", "shape": [7]}, (2, 7), (2,)),
        ({"kind": "tokens", "shape": [7], "causal": True}, (2, 7), (2, 7)),
        ({"kind": "seq2seq", "shape": [7, 5]}, (2, 7), (2, 5)),
    ],
)
def test_batches_have_the_shape(
    settings: dict, inputs: tuple[int, ...], targets: tuple[int, ...]
) -> None:
    """One label for a sample, or one for each position that is predicted."""
    task = Shapes(num_outputs=11, **settings)
    assert isinstance(task, Task)
    batch: Batch = next(iter(task.batches("test", 2)))
    assert (tuple(batch.inputs.shape), tuple(batch.targets.shape)) == (inputs, targets)
    symbols = task.spec.kind in ("tokens", "seq2seq")
    assert task.spec.vocab_size == (11 if symbols else None)
    assert (batch.inputs.dtype == torch.int64) == symbols
    if task.spec.kind == "seq2seq":
        assert batch.decoder_inputs is not None
        assert batch.decoder_inputs.shape == batch.targets.shape
        assert task.spec.target_length == 5


def test_there_is_no_quality() -> None:
    """Random targets have no right answer: the score is missing, and no model is called."""
    quality = Shapes().evaluate(None, [])  # type: ignore[arg-type]
    assert math.isnan(quality.value)
    assert quality.reason == "random weights on random inputs: cost only"


def test_a_shape_fits_its_kind() -> None:
    """Three axes are no sequence."""
    with pytest.raises(ValueError, match=r"shape=\[3, 224, 224\]: kind=tokens has 1 axes"):
        Shapes(kind="tokens")
