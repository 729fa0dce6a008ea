"""Balanced batches: no sample weighs more than another."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.meters.time.sampling import balanced_batches

settled = settings(deadline=None, derandomize=True, max_examples=60)


@settled
@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 5))
def test_every_sample_occurs_equally_often_in_full_batches(num_samples, batch_size, seed):
    """The fewest whole permutations that fill whole batches, none of them ragged."""
    rows = balanced_batches(num_samples, batch_size, seed=seed)
    counts = torch.bincount(rows.flatten(), minlength=num_samples)
    assert rows.shape[1] == batch_size
    assert counts.unique().numel() == 1
    assert rows.numel() == torch.tensor(num_samples).lcm(torch.tensor(batch_size))


def test_the_order_depends_on_the_seed_alone():
    """The same seed gives the same order, also at another batch size; another seed another one."""
    assert torch.equal(balanced_batches(64, 16, seed=3), balanced_batches(64, 16, seed=3))
    assert torch.equal(
        balanced_batches(64, 16, seed=3).flatten(), balanced_batches(64, 1, seed=3).flatten()
    )
    assert not torch.equal(balanced_batches(64, 16, seed=3), balanced_batches(64, 16, seed=4))


def test_the_order_does_not_use_the_global_generator():
    """Choosing inputs does not change a model's random numbers."""
    before = torch.get_rng_state()
    balanced_batches(10, 4)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("num_samples", "batch_size"), [(0, 1), (1, 0), (5, -1)])
def test_empty_batches_are_an_error(num_samples, batch_size):
    """Both numbers must be positive."""
    with pytest.raises(ValueError, match="cannot draw batches"):
        balanced_batches(num_samples, batch_size)
