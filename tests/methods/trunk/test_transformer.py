"""The transformer backbone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from bench.types import Batch, TaskSpec, Unsupported
from methods.backbone.transformer import Block, FeedForward, Head, Transformer, mean_token
from methods.trunk.attention import Attention
from methods.trunk.state import State


def _torch_layer(block: Block, num_heads: int) -> nn.TransformerEncoderLayer:
    """PyTorch's own pre-LN layer with the same weights."""
    dim, hidden = block.ffn.dim, block.ffn.hidden
    layer = nn.TransformerEncoderLayer(
        dim, num_heads, hidden, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    )
    parts = {
        "self_attn.in_proj_": block.attention.qkv,
        "self_attn.out_proj.": block.attention.out,
        "linear1.": block.ffn.up,
        "linear2.": block.ffn.down,
        "norm1.": block.norm_mix,
        "norm2.": block.norm_feed,
    }
    weights = {name + key: v for name, m in parts.items() for key, v in m.state_dict().items()}
    layer.load_state_dict(weights)
    return layer


@pytest.mark.parametrize("causal", [False, True])
def test_block_equals_torchs_layer(causal: bool) -> None:
    """With equal weights a block computes what torch.nn.TransformerEncoderLayer computes."""
    torch.manual_seed(0)
    block = Block(16, Attention(16, 4, causal=causal), FeedForward(16, 32), causal=causal)
    x = torch.randn(3, 7, 16)
    mask = nn.Transformer.generate_square_subsequent_mask(7) if causal else None
    expected = _torch_layer(block, 4)(x, src_mask=mask, is_causal=causal)
    torch.testing.assert_close(block(State(x)).x, expected)


@pytest.mark.parametrize("causal", [False, True])
def test_querying_tokens_get_their_rows_of_the_whole(causal: bool) -> None:
    """Tokens that query in the context of all get exactly their rows of the full result."""
    block = Block(16, Attention(16, 2, causal=causal), FeedForward(16, 32), causal=causal)
    state = State(torch.randn(2, 6, 16))
    tokens = torch.tensor([[1, 4, 5], [0, 2, 3]])
    some = block.feed(block.mix(state.take(tokens), context=state)).x
    torch.testing.assert_close(some, block(state).take(tokens).x)


def test_causal_model_does_not_see_the_future(tiny_text) -> None:
    """Changing a token changes no logits before it."""
    model, batch = tiny_text.backbone.build(tiny_text.spec).eval(), tiny_text.batch(2)
    changed = batch.inputs.clone()
    changed[:, 9] = (changed[:, 9] + 1) % 11
    before, after = model(batch).logits, model(Batch(changed, batch.targets)).logits
    torch.testing.assert_close(before[:, :9], after[:, :9])
    assert not torch.allclose(before[:, 9], after[:, 9])


@pytest.mark.parametrize("causal", [False, True])
def test_padding_changes_nothing(causal: bool) -> None:
    """A masked sequence gives the logits of the same sequence without its padding."""
    spec = TaskSpec("t", "tokens", (8,), 3, vocab_size=5, causal=causal)
    model = Transformer(dim=16, depth=2, num_heads=2).build(spec).eval()
    tokens = torch.randint(5, (2, 8))
    mask = torch.arange(8).expand(2, 8) < 5
    padded = model(Batch(tokens, tokens, mask=mask)).logits
    short = model(Batch(tokens[:, :5], tokens)).logits
    torch.testing.assert_close(padded[:, :5] if causal else padded, short)


def test_mean_token_weighs_by_size() -> None:
    """A token that stands for three counts three times: (1 x 2 + 3 x 6) / 4 = 5."""
    state = State(torch.tensor([[[2.0], [6.0], [99.0]]]), sizes=torch.tensor([[1.0, 3.0, 1.0]]))
    state = replace(state, mask=torch.tensor([[True, True, False]]))
    assert mean_token(state).item() == pytest.approx(5.0)


def test_shapes_follow_the_task(tiny_image, tiny_text) -> None:
    """One row of logits per image, one per position of a causal text."""
    assert tiny_image.backbone.build(tiny_image.spec)(tiny_image.batch(3)).logits.shape == (3, 5)
    assert tiny_text.backbone.build(tiny_text.spec)(tiny_text.batch(3)).logits.shape == (3, 16, 11)


@pytest.mark.parametrize(
    ("size", "stride", "num_tokens"), [(8, 2, 16), (9, 2, 25), (16, 4, 16), (9, 8, 4)]
)
def test_image_tokens(size: int, stride: int, num_tokens: int) -> None:
    """An image becomes one token per `stride` pixels along each axis, rounded up."""
    spec = TaskSpec("i", "image", (1, size, size), 2)
    backbone = Transformer(dim=16, depth=1, num_heads=2, image_stride=stride)
    state = backbone.build(spec).stem(Batch(torch.zeros(1, 1, size, size), torch.zeros(1)))
    assert state.x.shape == (1, num_tokens, 16)
    assert backbone.num_tokens(spec) == num_tokens


def test_tokens_lie_in_order_in_memory(tiny) -> None:
    """The state is contiguous from stem to head: a transposed layout would slow every layer."""
    trunk = tiny.backbone.build(tiny.spec).eval()
    state = trunk.stem(tiny.batch(2))
    for block in trunk.blocks:
        assert state.x.is_contiguous()
        state = block(state)
    assert state.x.is_contiguous()


def test_block_flops_by_hand() -> None:
    """T = 16, D = 16, H = 32: 16 (8 x 256 + 4 x 16 x 16 + 4 x 16 x 32) = 81,920 FLOPs."""
    spec = TaskSpec("t", "tokens", (16,), 11, vocab_size=11)
    backbone = Transformer(dim=16, depth=4, num_heads=2, hidden_multiple=2.0)
    assert backbone.block_flops(spec) == 81_920


def test_parts_can_be_replaced(tiny) -> None:
    """`ffn`, `attention` and `block` build what stands in for the dense parts."""

    class Silent(nn.Module):
        def forward(self, x, *rest):
            return torch.zeros_like(x)

    build = tiny.backbone.build
    quiet = build(
        tiny.spec, ffn=lambda dim, hidden: Silent(), attention=lambda dim, heads, causal: Silent()
    )
    state = quiet.stem(tiny.batch(2))
    assert torch.equal(quiet.blocks[0](state).x, state.x)
    wrapped = build(tiny.spec, block=lambda i, make: make() if i else nn.Identity())
    assert [type(b) for b in wrapped.blocks] == [nn.Identity, Block, Block, Block]


def test_auxiliary_losses_add_up(tiny) -> None:
    """Feed-forward layers may return a loss; the output carries the sum over the layers."""

    class Taxed(FeedForward):
        def forward(self, x):
            return super().forward(x), torch.tensor(0.5)

    output = tiny.backbone.build(tiny.spec, ffn=Taxed)(tiny.batch(2))
    assert output.aux_loss.item() == 4 * 0.5  # four layers


def test_spectrograms_are_images_of_one_channel() -> None:
    """40 mel bands x 50 frames at stride 4: 10 x 13 tokens, one row of logits per recording."""
    spec = TaskSpec("a", "audio", (40, 50), 6)
    backbone = Transformer(dim=16, depth=1, num_heads=2, image_stride=4)
    model = backbone.build(spec)
    batch = Batch(torch.randn(2, 40, 50), torch.zeros(2))
    assert model.stem(batch).x.shape == (2, 130, 16)
    assert backbone.num_tokens(spec) == 130
    assert model(batch).logits.shape == (2, 6)


def test_unsupported_kinds_say_so() -> None:
    """A kind without a stem is refused by name."""
    with pytest.raises(Unsupported, match="seq2seq"):
        Transformer().build(TaskSpec("t", "seq2seq", (8, 8), 3))


def test_heads_must_divide_the_width() -> None:
    """A width that heads cannot share is refused."""
    with pytest.raises(ValueError, match="divisible"):
        Attention(10, 3)


def test_head_reads_the_mean_or_each_token() -> None:
    """A pooling head gives logits of the sample, the other of each token."""
    x = torch.randn(2, 3, 4)
    pooled, each = Head(4, 5, pool=True), Head(4, 5, pool=False)
    each.load_state_dict(pooled.state_dict())
    torch.testing.assert_close(pooled(State(x)), each(State(x.mean(1, keepdim=True)))[:, 0])
    assert each(State(x)).shape == (2, 3, 5)


def test_blocks_start_near_the_identity() -> None:
    """GPT-2's initialisation: additions to the residual stream shrink with the depth."""
    torch.manual_seed(0)
    backbone = Transformer(dim=128, depth=8, num_heads=4)
    block = backbone.build(TaskSpec("i", "image", (1, 16, 16), 2)).blocks[0]
    # 16,384 weights or more: the standard error of a standard deviation is below 0.6 %
    for layer, deviation in [(block.ffn.up, 0.02), (block.ffn.down, 0.02 / 4)]:  # sqrt(16) = 4
        assert layer.weight.std().item() == pytest.approx(deviation, rel=0.05)


@pytest.mark.parametrize("name", ["dim", "depth", "num_heads", "num_kv_heads", "image_stride"])
def test_sizes_that_make_no_network_are_refused(name: str) -> None:
    """By name, before anything is built: no blocks at all would train and look like a result."""
    for size in (0, -1):
        with pytest.raises(ValueError, match=f"{name}={size}: must be at least 1"):
            Transformer(**{name: size})
    with pytest.raises(ValueError, match=r"hidden_multiple=-1.0: must be at least 0"):
        Transformer(hidden_multiple=-1.0)


def test_odd_strides_are_refused() -> None:
    """A stride that three convolutions cannot make is refused with the choices."""
    with pytest.raises(ValueError, match=r"1, 2, 4, 8"):
        Transformer(image_stride=3).build(TaskSpec("i", "image", (1, 16, 16), 2))
