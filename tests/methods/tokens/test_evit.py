"""EViT: which tokens are kept, what the fused one is, and the keep rate in training."""

from __future__ import annotations

import pytest
import torch

from bench import routing
from bench.plugins import construct
from bench.types import Unsupported
from methods.backbone.transformer import Transformer
from methods.tokens.evit import EViT, annealed, attention_received, num_to_keep
from methods.trunk.attention import AttentionView
from methods.trunk.state import State

CLASS = Transformer(dim=16, depth=4, num_heads=2, stem="patch", image_stride=2, pool="class")


@pytest.fixture(params=["mean", "class"])
def backbone(request, tiny_image) -> Transformer:
    """Both ways of reading an image."""
    return CLASS if request.param == "class" else tiny_image.backbone


def fused(model, x: torch.Tensor, class_scores: torch.Tensor, keep_rate: float) -> State:
    """One reduction of `x` [B, N, D] by the class token's attention [B, N]."""
    model.keep_rate = keep_rate
    view = AttentionView(class_scores=class_scores[:, None])  # one head
    with torch.no_grad():
        return model.reduce(1, State(x), view)


def test_the_fused_token_by_hand(tiny_image) -> None:
    """Weights .4 .1 .3 .2 of the patches: the first and third stay, .1 x 20 + .2 x 40 = 10."""
    model = EViT().build(tiny_image.spec, CLASS).eval()
    x = torch.tensor([5.0, 10.0, 20.0, 30.0, 40.0])[None, :, None]
    scores = torch.tensor([[0.0, 0.4, 0.1, 0.3, 0.2]])
    found = fused(model, x, scores, 0.5)
    torch.testing.assert_close(found.x.flatten(), torch.tensor([5.0, 10.0, 30.0, 10.0]))
    # The fused token has the position of the heavier one, number 4.
    assert found.positions.tolist() == [[0, 1, 3, 4]]


def test_forced_decisions_fuse_alike(tiny_image) -> None:
    """The same decision by replay, and one that keeps none: .4 x 10 + ... + .2 x 40 = 23."""
    model = EViT().build(tiny_image.spec, CLASS).eval()
    x = torch.tensor([5.0, 10.0, 20.0, 30.0, 40.0])[None, :, None]
    scores = torch.tensor([[0.0, 0.4, 0.1, 0.3, 0.2]])
    with routing.observe() as seen:
        own = fused(model, x, scores, 0.5)
    with routing.replay(seen):
        again = fused(model, x, scores, 0.9)
    torch.testing.assert_close(again.x, own.x)
    assert torch.equal(again.positions, own.positions)
    with routing.force("closed"):
        closed = fused(model, x, scores, 0.9)
    torch.testing.assert_close(closed.x.flatten(), torch.tensor([5.0, 23.0]))


def test_numbers_are_rounded_up() -> None:
    """ceil(0.7 x 196) = 138, and 0.7 x 10 is 7 although floats make it a little more."""
    assert num_to_keep(196, 0.7) == 138
    assert num_to_keep(10, 0.7) == 7
    assert num_to_keep(5, 0.1) == 1


def test_lengths_by_hand(tiny_image) -> None:
    """16 patches and a class token: 1 + 8 + 1 = 10 after block 1, then 1 + 5 + 1 and 1 + 3 + 1."""
    method = EViT()
    model = method.build(tiny_image.spec, CLASS)
    assert model.stages == (1, 2, 3)
    # ceil(0.5 x 16) = 8; ceil(0.5 x 9) = 5 of nine others; ceil(0.5 x 6) = 3.
    assert method.tokens_left(model.trunk, {"keep_rate": 0.5}) == [17, 10, 7, 5]


def test_what_is_said_to_be_left_is_left(backbone, tiny_image) -> None:
    """Each block's feed-forward layer works on as many tokens as `tokens_left` says."""
    method = EViT()
    model = method.build(tiny_image.spec, backbone).eval()
    for point in method.points():
        method.set_point(model, point)
        found: list[int] = []
        hooks = [
            block.ffn.register_forward_pre_hook(
                lambda _, args, found=found: found.append(args[0].shape[1])
            )
            for block in model.trunk.blocks
        ]
        model(tiny_image.batch(2))
        assert found == method.tokens_left(model.trunk, point)
        for hook in hooks:
            hook.remove()


def test_blocks_are_the_papers_or_those_given(tiny_image) -> None:
    """Blocks 3, 6 and 9 of 12, 1, 3 and 4 of 6; a number beyond the trunk is refused."""
    for depth, stages in ((12, (3, 6, 9)), (6, (1, 3, 4)), (1, (0,))):
        deep = Transformer(dim=16, depth=depth, num_heads=2, image_stride=2)
        assert EViT().build(tiny_image.spec, deep).stages == stages
    assert EViT(blocks=[2]).build(tiny_image.spec, CLASS).stages == (2,)
    with pytest.raises(Unsupported, match="blocks 0 to 3"):
        EViT(blocks=[4]).build(tiny_image.spec, CLASS)


def test_keeping_all_is_dense(backbone, tiny_image) -> None:
    """keep_rate = 1 fuses nothing: the dense model, bit for bit."""
    dense = backbone.build(tiny_image.spec).eval()
    model = EViT(keep_rate=1.0).convert(dense, []).eval()
    assert torch.equal(model(tiny_image.batch(3)).logits, dense(tiny_image.batch(3)).logits)


def test_the_class_token_is_never_fused(tiny_image) -> None:
    """It is no candidate, stays first, and even closed gates leave it."""
    model = EViT().build(tiny_image.spec, CLASS).eval()
    with routing.force("closed"), routing.observe() as seen:
        model(tiny_image.batch(3))
    for decision in seen.decisions:
        assert not decision.eligible[:, 0].any()
        assert (decision.eligible[:, 1:]).all()
    # Closed gates leave two tokens, whose second one is fused again.
    assert seen.decisions[-1].tokens[:, 0].tolist() == [0, 0, 0]
    assert seen.decisions[-1].tokens.shape == (3, 2)


def test_attention_received_is_the_mean_over_queries() -> None:
    """Scores 0 and log 3: a query gives 1/4 and 3/4, the other 1/2 each: means .375 and .625.

    A third token that is masked neither gives nor gets anything.
    """
    queries = torch.tensor([[2.0], [0.0], [9.0]])[None, None] * torch.log(torch.tensor(3.0)) / 2
    keys = torch.tensor([[0.0], [1.0], [5.0]])[None, None]
    whole = AttentionView(queries=queries[:, :, :2], keys=keys[:, :, :2])
    wanted = torch.tensor([[0.375, 0.625]])
    torch.testing.assert_close(attention_received(whole, None), wanted)
    padded = attention_received(
        AttentionView(queries=queries, keys=keys), torch.arange(3)[None] < 2
    )
    torch.testing.assert_close(padded, torch.tensor([[0.375, 0.625, 0.0]]))


def test_the_keep_rate_falls_along_half_a_cosine() -> None:
    """1 until a tenth, half way at 0.3, the final rate from a half of training on."""
    assert annealed(0.6, 0.0) == annealed(0.6, 0.1) == 1.0
    assert annealed(0.6, 0.3) == pytest.approx(0.8)
    assert annealed(0.6, 0.5) == annealed(0.6, 1.0) == pytest.approx(0.6)


def test_training_follows_progress_and_inference_does_not(tiny_image) -> None:
    """At the start of training no token leaves, at its end 0.5 of 16 stay and one is fused."""
    method = EViT(keep_rate=0.5)
    model = method.build(tiny_image.spec, tiny_image.backbone)
    for progress, run in ((0.0, 16), (1.0, 8)):
        with routing.observe() as seen:
            method.loss(model.train(), tiny_image.batch(2), tiny_image.criterion, progress)
        assert seen.named("fuse1")[0].run.sum(1).tolist() == [run, run]
    method.loss(model, tiny_image.batch(2), tiny_image.criterion, 0.0)
    with routing.observe() as seen:
        model.eval()(tiny_image.batch(2))
    assert seen.named("fuse1")[0].run.sum(1).tolist() == [8, 8]


def test_gradients_pass_through_the_fused_token(tiny_image) -> None:
    """The class token's attention learns by the weights with which tokens are fused."""
    model = EViT(keep_rate=0.1, blocks=[3]).build(tiny_image.spec, CLASS)
    view, batch = model.make_view(), tiny_image.batch(2)
    state = model.trunk.blocks[0].mix(model.trunk.stem(batch), view=view)
    state = model.reduce(3, State(state.x.detach()), view)
    state.x[:, -1].sum().backward()
    assert model.trunk.blocks[0].attention.qkv.weight.grad.any()


def test_rates_outside_the_range_are_refused() -> None:
    """A keep rate of 0, or of more than 1, names the setting."""
    for wrong in (0.0, 1.5):
        with pytest.raises(ValueError, match="keep_rate"):
            construct(EViT, {"keep_rate": wrong})
