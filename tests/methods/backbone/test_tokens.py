"""Gathering ragged tokens into a rectangle and putting them back."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from methods.backbone.tokens import compact_tokens, linear_flops, put_back
from methods.backbone.trunk import State


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.booleans(), min_size=5, max_size=5), min_size=1, max_size=4))
def test_compact_lists_running_tokens_in_order(rows: list[list[bool]]) -> None:
    """Each sample's running tokens come first and in order; the rest of its row is padding."""
    tokens, valid = compact_tokens(torch.tensor(rows))
    wanted = [[t for t, run in enumerate(row) if run] for row in rows]
    assert tokens.shape == (len(rows), max(map(len, wanted)))
    for i, row in enumerate(wanted):
        assert tokens[i, : len(row)].tolist() == row
        assert len(set(tokens[i].tolist())) == tokens.shape[1]  # padding repeats no token
        if valid is not None:
            assert valid[i].tolist() == [k < len(row) for k in range(tokens.shape[1])]
    assert (valid is None) == (len({len(row) for row in wanted}) == 1)


def test_put_back_leaves_padding_alone() -> None:
    """Only valid tokens change; padding and everything not taken stays bit for bit."""
    state = State(torch.randn(2, 4, 3))
    tokens, valid = compact_tokens(torch.tensor([[1, 0, 1, 0], [0, 1, 0, 0]]).bool())
    new = torch.full((2, 2, 3), 9.0)
    x = put_back(state, tokens, new, valid).x
    changed = (x != state.x).all(-1)
    assert changed.tolist() == [[True, False, True, False], [False, True, False, False]]
    assert torch.equal(x[~changed], state.x[~changed])


def test_linear_flops_counts_each_weight_twice() -> None:
    """A linear layer spends 2 FLOPs per weight and token: 2 (3 x 5 + 5 x 2) = 50."""
    assert linear_flops(nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))) == 50
