"""Attention weighs merged tokens by size, and exposes its keys and class-token scores."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from methods.trunk.attention import Attention, AttentionView
from methods.trunk.block import Block
from methods.trunk.feedforward import FeedForward
from methods.trunk.state import State


def block(*, causal: bool = False) -> Block:
    torch.manual_seed(0)
    return Block(8, Attention(8, 2, causal=causal), FeedForward(8, 16), causal=causal).eval()


def test_a_merged_pair_weighs_as_two() -> None:
    """Identical tokens merged into one of size 2 change no other token (Bolya et al. 2023)."""
    torch.manual_seed(1)
    x = torch.randn(2, 4, 8)
    x[:, 1] = x[:, 0]
    whole = block()(State(x)).x
    merged = State(x[:, 1:], sizes=torch.tensor([[2.0, 1.0, 1.0]] * 2))
    torch.testing.assert_close(block()(merged).x, whole[:, 1:])
    without = block()(replace(merged, sizes=None)).x
    assert not torch.allclose(without, whole[:, 1:])


def test_padding_and_causality_hold_with_sizes() -> None:
    """Sizes of one change nothing: with padding, and with a causal mask."""
    torch.manual_seed(1)
    x, mask = torch.randn(2, 4, 8), torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]]).bool()
    for causal in (False, True):
        given = State(x, mask=mask)
        expected = block(causal=causal)(given).x
        found = block(causal=causal)(replace(given, sizes=torch.ones(2, 4))).x
        torch.testing.assert_close(found[mask], expected[mask])


def test_a_view_shows_keys_and_the_class_tokens_scores() -> None:
    """Scores are the softmax of q_0 k^T / sqrt(d) over all visible tokens, each head's sum is 1."""
    torch.manual_seed(1)
    made, x = block(), torch.randn(2, 4, 8)
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]]).bool()
    view = AttentionView(with_scores=True)
    plain = made.mix(State(x, mask=mask)).x
    torch.testing.assert_close(made.mix(State(x, mask=mask), view=view).x, plain)
    query, key, _ = made.attention.qkv(made.norm_mix(x)).chunk(3, -1)
    query, key = (part.view(2, 4, 2, 4).transpose(1, 2) for part in (query, key))
    torch.testing.assert_close(view.keys, key)
    scores = (query[:, :, :1] @ key.transpose(2, 3) / 2).masked_fill(
        ~mask[:, None, None], -torch.inf
    )
    torch.testing.assert_close(view.class_scores, scores.softmax(-1)[:, :, 0])
    torch.testing.assert_close(view.class_scores.sum(-1), torch.ones(2, 2))


def test_costs_of_a_block() -> None:
    """Width 8, hidden 16: 2 x (8 x 24 + 8 x 8 + 2 x 8 x 16) = 1,024 a token, 4 x 8 a pair."""
    from bench.routing import Cost
    from methods.trunk.trunk import Trunk

    trunk = Trunk(None, 8, nn.Identity(), [block()], nn.Identity)  # type: ignore[arg-type]
    assert trunk.block_costs() == [Cost(element=1024.0, pair=32.0)]
