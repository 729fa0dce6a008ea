"""Gathering ragged tokens into a rectangle and putting them back."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from bench.types import TaskSpec
from methods.backbone.transformer import Transformer
from methods.trunk.costs import linear_flops
from methods.trunk.selection import run_block, select_by_length, select_running
from methods.trunk.state import State


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.booleans(), min_size=5, max_size=5), min_size=1, max_size=4))
def test_running_tokens_come_first_and_in_order(rows: list[list[bool]]) -> None:
    """Each sample's running tokens in order, then padding up to the longest sample's number."""
    selection = select_running(torch.tensor(rows))
    expected = [[t for t, run in enumerate(row) if run] for row in rows]
    assert selection.tokens.shape == (len(rows), max(map(len, expected)))
    for i, row in enumerate(expected):
        assert selection.tokens[i, : len(row)].tolist() == row
        if selection.valid is not None:
            assert selection.valid[i].tolist() == [
                k < len(row) for k in range(max(map(len, expected)))
            ]
    assert (selection.valid is None) == (len({len(row) for row in expected}) == 1)
    assert selection.places.tolist() == [5 * i + t for i, row in enumerate(expected) for t in row]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.booleans(), min_size=5, max_size=5), min_size=1, max_size=4))
def test_taken_and_put_back_is_unchanged(rows: list[list[bool]]) -> None:
    """Selected tokens packed without padding and put back give the very tensor."""
    run = torch.tensor(rows)
    x, selection = torch.randn(*run.shape, 3), select_running(run)
    packed = selection.pack(State(x).take(selection.tokens).x)
    assert torch.equal(packed[0], x[run])
    assert torch.equal(selection.put(x, packed), x)
    assert torch.equal(selection.take(State(x)).x, packed)
    rectangle = selection.pad(packed)
    assert rectangle.shape == (*selection.tokens.shape, 3)
    assert torch.equal(selection.pack(rectangle), packed)
    changed = selection.put(x, packed + 1)
    assert torch.equal(changed[~run], x[~run])
    assert torch.equal(changed[run], x[run] + 1)


@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("settings", [{}, {"positions": "rotary", "num_kv_heads": 1}])
@pytest.mark.parametrize("with_context", [False, True])
def test_packed_projections_equal_padded_ones(norm_first, settings, with_context) -> None:
    """A block without support for packed tokens gives the same results and gradients."""
    torch.manual_seed(0)
    spec = TaskSpec("text", "tokens", (7,), 5, vocab_size=5, causal=True)
    dims = {"dim": 8, "depth": 1, "num_heads": 2, "norm_first": norm_first}
    block = Transformer(**dims, **settings).build(spec).blocks[0]
    selection = select_running(torch.rand(3, 7) < 0.6)
    assert selection.valid is not None  # ragged

    def run(unaware: bool) -> tuple[Tensor, ...]:
        state = State(torch.linspace(-1, 1, 3 * 7 * 8).sin().view(3, 7, 8).requires_grad_())
        block.attention.takes_selection = not unaware
        context = state if with_context else None
        new = run_block(block, selection.take(state), selection, context).x
        return new, *torch.autograd.grad(new.square().sum(), (state.x, block.attention.qkv.weight))

    for packed, padded in zip(run(False), run(True), strict=True):
        torch.testing.assert_close(packed, padded)


def test_linear_flops_counts_each_weight_twice() -> None:
    """A linear layer spends 2 FLOPs per weight and token: 2 (3 x 5 + 5 x 2) = 50."""
    assert linear_flops(nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))) == 50


LIVE = torch.arange(8) < torch.tensor([[8], [0], [2], [7], [1], [2], [8], [3]])


def test_samples_by_length_are_those_with_a_token() -> None:
    """Lengths 8 0 2 7 1 2 8 3: samples 0 6 3 7 2 5 4, in buckets of 8 8 7 3 and of 2 2 1.

    A bucket ends when it has four samples and the next one has at most 3/4 of its length: 2 of 8.
    """
    selection = select_by_length(LIVE, LIVE.sum(1).tolist())
    assert selection.samples.tolist() == [0, 6, 3, 7, 2, 5, 4]
    assert [(b.begin, b.end, b.length, b.first, b.last) for b in selection.buckets] == [
        (0, 4, 8, 0, 26),
        (4, 7, 2, 26, 31),
    ]
    x = torch.randn(8, 8, 3)
    packed = selection.take(State(x)).x
    wanted = [x[i, : int(LIVE[i].sum())] for i in (0, 6, 3, 7, 2, 5, 4)]
    assert torch.equal(packed[0], torch.cat(wanted))
    changed = selection.put(x, packed + 1)
    assert torch.equal(changed, x + LIVE[..., None])


@pytest.mark.parametrize("settings", [{}, {"positions": "rotary", "num_kv_heads": 1}])
@pytest.mark.parametrize("causal", [False, True])
def test_buckets_change_no_result(settings, causal: bool) -> None:
    """A block over buckets gives every sample what it gets alone."""
    torch.manual_seed(0)
    spec = TaskSpec("text", "tokens", (8,), 5, vocab_size=5, causal=causal)
    trunk = Transformer(dim=8, depth=1, num_heads=2, **settings).build(spec)
    x, selection = torch.randn(8, 8, 8), select_by_length(LIVE, LIVE.sum(1).tolist())
    picked = dataclasses.replace(selection.take(State(x)), mask=selection.valid)
    found = selection.put(x, run_block(trunk.blocks[0], picked, selection).x)
    for sample, length in enumerate(LIVE.sum(1).tolist()):
        alone = State(x[sample : sample + 1, :length])
        wanted = trunk.blocks[0](alone).x[0] if length else x[sample, :0]
        torch.testing.assert_close(found[sample, :length], wanted)
        assert torch.equal(found[sample, length:], x[sample, length:])


def test_a_decoders_packed_tokens_read_the_encoder_as_padded_ones() -> None:
    """Cross-attention on packed tokens gives what it gives on the padded rectangle."""
    torch.manual_seed(0)
    spec = TaskSpec("pairs", "seq2seq", (5,), 5, vocab_size=5, target_length=8)
    block = Transformer(dim=8, depth=1, num_heads=2).build(spec).blocks[0]
    memory_mask = torch.rand(8, 5) < 0.7
    memory_mask[:, 0] = True
    state = State(torch.randn(8, 8, 8), memory=torch.randn(8, 5, 8), memory_mask=memory_mask)
    selection = select_by_length(LIVE, LIVE.sum(1).tolist())
    found = {}
    for packed in (True, False):
        block.attention.takes_selection = packed
        picked = selection.take(state)
        found[packed] = run_block(
            block, dataclasses.replace(picked, mask=selection.valid), selection
        )
    torch.testing.assert_close(found[True].x, found[False].x)
