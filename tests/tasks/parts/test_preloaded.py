"""Data in memory: order, batches, content hash."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bench.tasks.parts.preloaded import content_hash, iterate_batches
from bench.types import Batch


def numbered(num_samples: int) -> Batch:
    return Batch(torch.arange(num_samples)[:, None].float(), torch.arange(num_samples))


def order_of(batches: object) -> list[int]:
    return [target for batch in batches for target in batch.targets.tolist()]  # type: ignore[attr-defined]


@given(st.integers(0, 50), st.integers(1, 12), st.none() | st.integers(0, 2**63), st.booleans())
def test_a_pass_shows_every_sample_once(
    num_samples: int, batch_size: int, seed: int | None, whole: bool
) -> None:
    """One pass shows each sample once; only `whole` drops a ragged last batch."""
    sizes = [
        len(b) for b in iterate_batches(numbered(num_samples), batch_size, seed=seed, whole=whole)
    ]
    shown = order_of(iterate_batches(numbered(num_samples), batch_size, seed=seed, whole=whole))
    assert len(set(shown)) == len(shown) == sum(sizes)
    assert num_samples - sum(sizes) == (num_samples % batch_size if whole else 0)
    assert all(size == batch_size for size in sizes[:-1])


def test_without_a_seed_the_order_is_that_of_the_data() -> None:
    """No seed: samples come in data order, the last batch as large as what is left."""
    batches = list(iterate_batches(numbered(5), 2))
    assert [batch.targets.tolist() for batch in batches] == [[0, 1], [2, 3], [4]]


def test_a_seed_fixes_the_order() -> None:
    """The same seed gives the same order, another seed another one (50! orders: no chance hit)."""
    first, again, other = (order_of(iterate_batches(numbered(50), 8, seed=s)) for s in (3, 3, 4))
    assert first == again != other
    assert first != sorted(first)


def test_every_tensor_of_a_sample_moves_with_it() -> None:
    """Inputs, targets and mask are shuffled together."""
    samples = replace(numbered(20), mask=torch.arange(20)[:, None] % 2 == 0)
    for batch in iterate_batches(samples, 6, seed=1):
        assert batch.inputs[:, 0].tolist() == batch.targets.tolist()
        assert batch.mask is not None
        assert batch.mask[:, 0].tolist() == (batch.targets % 2 == 0).tolist()


def test_a_batch_size_below_one_is_rejected() -> None:
    """A batch size of zero is an error that names the value, not an endless loop."""
    with pytest.raises(ValueError, match="at least 1, got 0"):
        list(iterate_batches(numbered(3), 0))


@pytest.mark.parametrize(
    "changed",
    [
        replace(numbered(4), targets=torch.tensor([0, 1, 2, 9])),
        replace(numbered(4), inputs=torch.arange(4).float()),  # the same bytes, another shape
        replace(numbered(4), mask=torch.ones(4, 1, dtype=torch.bool)),
        numbered(4).map(lambda tensor: tensor.double()),
    ],
)
def test_the_hash_sees_every_change(changed: Batch) -> None:
    """Another value, shape, type or an added tensor in one split changes the content hash."""
    same = {"train": numbered(4), "calibration": numbered(2), "test": numbered(1)}
    assert content_hash(same) == content_hash(dict(same))
    assert content_hash({**same, "train": changed}) != content_hash(same)
    assert content_hash({**same, "train": same["test"], "test": same["train"]}) != content_hash(
        same
    )
