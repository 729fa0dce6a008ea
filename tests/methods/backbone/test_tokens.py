"""Gathering ragged tokens into a rectangle and putting them back."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from methods.backbone.tokens import linear_flops, select_running
from methods.backbone.trunk import State


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.booleans(), min_size=5, max_size=5), min_size=1, max_size=4))
def test_running_tokens_come_first_and_in_order(rows: list[list[bool]]) -> None:
    """Each sample's running tokens in order, then padding up to the longest sample's number."""
    selection = select_running(torch.tensor(rows))
    wanted = [[t for t, run in enumerate(row) if run] for row in rows]
    assert selection.tokens.shape == (len(rows), max(map(len, wanted)))
    for i, row in enumerate(wanted):
        assert selection.tokens[i, : len(row)].tolist() == row
        if selection.valid is not None:
            assert selection.valid[i].tolist() == [
                k < len(row) for k in range(max(map(len, wanted)))
            ]
    assert (selection.valid is None) == (len({len(row) for row in wanted}) == 1)
    assert selection.places.tolist() == [5 * i + t for i, row in enumerate(wanted) for t in row]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.booleans(), min_size=5, max_size=5), min_size=1, max_size=4))
def test_taken_and_put_back_is_unchanged(rows: list[list[bool]]) -> None:
    """Selected tokens packed without padding and put back give the very tensor."""
    run = torch.tensor(rows)
    x, selection = torch.randn(*run.shape, 3), select_running(run)
    packed = selection.pack(State(x).take(selection.tokens).x)
    assert torch.equal(packed[0], x[run])
    assert torch.equal(selection.put(x, packed), x)
    changed = selection.put(x, packed + 1)
    assert torch.equal(changed[~run], x[~run])
    assert torch.equal(changed[run], x[run] + 1)


def test_linear_flops_counts_each_weight_twice() -> None:
    """A linear layer spends 2 FLOPs per weight and token: 2 (3 x 5 + 5 x 2) = 50."""
    assert linear_flops(nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))) == 50
