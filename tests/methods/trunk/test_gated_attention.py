"""Gates of keys and heads: weighed in training, left out at inference, with one result."""

from __future__ import annotations

import pytest
import torch

from methods.trunk.attention import Attention
from methods.trunk.gated_attention import AttentionGates
from methods.trunk.positions import Rotary
from methods.trunk.selection import select_running


def attention(**settings) -> Attention:
    torch.manual_seed(0)
    return Attention(8, 2, **settings)


@pytest.mark.parametrize("settings", [{}, {"causal": True}, {"num_kv_heads": 1}])
def test_closed_keys_are_not_there(settings) -> None:
    """Open queries get what attention among the open tokens alone gives them."""
    layer, x = attention(**settings), torch.randn(3, 5, 8)
    keep = torch.tensor([0, 2, 3])
    keys = torch.zeros(3, 5).index_fill(1, keep, 1.0)
    found = layer(x, gates=AttentionGates(keys=keys))
    torch.testing.assert_close(found[:, keep], layer(x[:, keep]))


def test_a_closed_key_still_attends_to_itself() -> None:
    """With every key closed each token's result is its own value: the diagonal stays 1."""
    layer, x = attention(), torch.randn(2, 5, 8)
    found = layer(x, gates=AttentionGates(keys=torch.zeros(2, 5)))
    torch.testing.assert_close(found, layer.out(layer.qkv(x)[..., 16:]))


def test_a_closed_key_has_a_gradient() -> None:
    """A factor of 0 learns, too: a bias of its logarithm would give it none."""
    keys = torch.zeros(1, 4, requires_grad=True)
    attention()(torch.randn(1, 4, 8), gates=AttentionGates(keys=keys)).square().sum().backward()
    assert (keys.grad != 0).all()


def test_a_sample_of_padding_only_is_finite() -> None:
    """Queries that may attend to nothing give finite results and gradients."""
    layer, mask = attention(), torch.zeros(2, 1, 1, 4, dtype=torch.bool)
    mask[1] = True
    found = layer(torch.randn(2, 4, 8), mask, gates=AttentionGates(keys=torch.zeros(2, 4)))
    found.square().sum().backward()
    assert found.isfinite().all()
    assert layer.qkv.weight.grad.isfinite().all()


RUN = torch.tensor([[1, 0], [0, 1], [1, 1], [0, 0]]).bool()  # heads of four samples


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("rotary", [None, Rotary(5, 4, 100.0)])
@torch.no_grad()
def test_heads_left_out_are_heads_times_zero(causal: bool, rotary) -> None:
    """Computing the running heads alone equals computing all and multiplying by 0 or 1."""
    layer, x = attention(causal=causal, rotary=rotary), torch.randn(4, 5, 8)
    masked = layer(x, gates=AttentionGates(heads=RUN.float()))
    torch.testing.assert_close(layer(x, gates=AttentionGates(run=RUN)), masked)
    torch.testing.assert_close(masked[3], layer.out.bias.expand(5, -1))  # no head: the bias


@torch.no_grad()
def test_heads_left_out_among_ragged_tokens() -> None:
    """With 3, 1, 5 and 2 packed tokens each sample gets what it gets alone."""
    layer, x = attention(), torch.randn(4, 5, 8)
    live = torch.arange(5) < torch.tensor([[3], [1], [5], [2]])
    selection = select_running(live)
    packed = selection.pack(x[torch.arange(4)[:, None], selection.tokens])
    mask, gates = selection.valid[:, None, None], AttentionGates(run=RUN)
    found = selection.pad(layer(packed, mask, selection=selection, gates=gates))
    for sample, length in enumerate((3, 1, 5, 2)):
        alone = x[sample : sample + 1, :length]
        heads = AttentionGates(heads=RUN[sample : sample + 1].float())
        torch.testing.assert_close(found[sample, :length], layer(alone, gates=heads)[0])
