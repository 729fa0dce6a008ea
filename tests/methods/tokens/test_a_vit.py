"""A-ViT: tokens that halt, the mean of their states, and what neither runs nor is looked at."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from bench import routing
from bench.meters.flops.counter import count
from bench.plugins import construct
from bench.types import Unsupported
from methods.backbone.resnet import ResNet
from methods.tokens.a_vit import AViT, Halting

POOLS = ("mean", "class")


def _model(tiny, pool: str = "mean", **settings):
    """A dense trunk and its converted model, both in inference mode."""
    dense = replace(tiny.backbone, pool=pool).build(tiny.spec).eval()
    return dense, AViT(**settings).convert(dense, [tiny.batch(16)]).eval()


def _random():
    return routing.force("random", share=0.6, generator=torch.Generator().manual_seed(1))


def test_probabilities_of_two_fifths_halt_a_token_at_the_third_block(tiny_image) -> None:
    """0.4 + 0.4 < 0.99 <= 0.4 + 0.4 + 0.4: weights 0.4, 0.4 and the rest, 0.2."""
    method = AViT(gamma=1.0, beta=0.0)
    model = method.build(tiny_image.spec, replace(tiny_image.backbone, depth=5)).eval()
    x = torch.full((1, 1, 16), math.log(0.4 / 0.6))  # sigmoid of it is 0.4
    gated = torch.ones(1, 1, dtype=torch.bool)
    at = Halting(gated, torch.zeros(1, 1), torch.ones(1, 1))
    weights, live = [], []
    for number in range(3):
        left = at.left
        at, _ = model._advance(number, at, x, gated)
        weights.append(float(left - at.left))
        live.append(bool(at.live))
    assert weights == pytest.approx([0.4, 0.4, 0.2])
    assert live == [True, True, False]


@pytest.mark.parametrize("pool", POOLS)
@torch.no_grad()
def test_weights_sum_to_one_for_every_token(tiny_image, tiny_labels, pool: str) -> None:
    """At own and random decisions; nothing after the last block that ran, 0 for padding."""
    for tiny in (tiny_image, tiny_labels):
        _, model = _model(tiny, pool, beta=-1.0)  # halts early
        batch = tiny.batch(4)
        with _random():
            forced = model(batch).stats
        for stats in (model(batch).stats, forced):
            weights, depth = stats["weights"], stats["depth"]
            real = torch.ones_like(depth) if batch.mask is None else batch.mask.float()
            torch.testing.assert_close(weights.sum(0), real.float())
            assert (weights >= 0).all()
            later = torch.arange(4)[:, None, None] > depth
            assert (weights[later & (depth >= 0)] == 0).all()
        assert len(depth.unique()) > 2


@pytest.mark.parametrize("pool", POOLS)
@torch.no_grad()
def test_halting_for_real_equals_masking(tiny_image, tiny_labels, pool: str) -> None:
    """Leaving halted tokens out equals hiding them from attention, within 1e-5."""
    for tiny in (tiny_image, tiny_labels):
        _, model = _model(tiny, pool)
        batch = tiny.batch(4)
        with _random(), routing.observe() as seen:
            found = model(batch)
        state = model.trunk.stem(batch)
        real = torch.ones(state.x.shape[:2], dtype=torch.bool)
        real = real if state.mask is None else state.mask
        kept = [real, *(decision.run for decision in seen.decisions)]
        out = torch.zeros_like(state.x)
        for block, live, weight in zip(
            model.trunk.blocks, kept, found.stats["weights"], strict=True
        ):
            live = live.clone()
            live[:, 0] |= model.trunk.class_token
            new = block(replace(state, mask=live | ~live.any(1, keepdim=True)))  # all is computed
            state = replace(state, x=torch.where(live[..., None], new.x, state.x))
            out = out + weight[..., None] * state.x
        wanted = model.trunk.head(replace(state, x=out))
        torch.testing.assert_close(found.logits, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("pool", POOLS)
@torch.no_grad()
def test_a_gate_that_never_halts_is_dense(tiny_image, pool: str) -> None:
    """With beta = -100 the last state has all the weight: the dense model."""
    dense, model = _model(tiny_image, pool, beta=-100.0)
    batch = tiny_image.batch(3)
    torch.testing.assert_close(model(batch).logits, dense(batch).logits)


@torch.no_grad()
def test_the_class_token_never_halts(tiny_image) -> None:
    """With all gates closed it runs every block alone, and its weights sum to one."""
    dense, model = _model(tiny_image, "class", beta=-100.0)
    batch = tiny_image.batch(2)
    with routing.force("closed"):
        found = model(batch)
    state = dense.blocks[0](dense.stem(batch))
    state = replace(state, x=state.x[:, :1])
    for block in dense.blocks[1:]:
        state = block(state)
    torch.testing.assert_close(found.logits, dense.head(state))
    assert found.stats["depth"][:, 0].tolist() == [-1, -1]
    assert (found.stats["depth"][:, 1:] == 0).all()


def test_the_price_worked_out_by_hand(tiny_image) -> None:
    """Token A halts at once, N + p = 1 + 1; B after three blocks, 3 + 0.5: mean 2.75.

    Halting probabilities of A and B after the first two blocks: (0.5, 0.1) and, of B alone, 0.2.
    Means over both tokens 0.3 and 0.1, a distribution of 3/4 and 1/4. The prior's mean is at
    2/3 x 3 - 1 = 1: exp(-1/2) to 1, or 0.3775 and 0.6225.
    """
    method = AViT(ponder_weight=1.0, prior_weight=0.0, prior_depth=2 / 3)
    model = method.build(tiny_image.spec, replace(tiny_image.backbone, depth=3))
    weights = torch.tensor([[[1.0, 0.3]], [[0.0, 0.2]], [[0.0, 0.5]]])
    scores = [torch.tensor([[0.5, 0.1]]), torch.tensor([[0.9, 0.2]]), torch.ones(1, 2)]
    depth = torch.tensor([[0, 2]])
    assert float(model._price(depth, weights, scores)) == pytest.approx(2.75)
    model.settings = replace(method, ponder_weight=0.0, prior_weight=1.0)
    wanted = 0.3775 * math.log(0.3775 / 0.75) + 0.6225 * math.log(0.6225 / 0.25)
    assert float(model._price(depth, weights, scores)) == pytest.approx(wanted, abs=1e-3)


def test_the_price_moves_halting_tokens(tiny_image) -> None:
    """The ponder cost has a gradient down to the block that wrote the first channel."""
    _, model = _model(tiny_image, beta=-1.0, ponder_weight=1.0, prior_weight=0.0)
    model.train()(tiny_image.batch(4)).aux_loss.backward()
    assert model.trunk.blocks[0].ffn.down.weight.grad[0].abs().sum() > 0


def test_training_skips_too(tiny_image) -> None:
    """Closed gates leave all blocks but the first out of a training pass."""
    dense, model = _model(tiny_image)
    batch = tiny_image.batch(2)
    with routing.force("closed"):
        closed = count(model.train(), batch).total
    skipped = 3 * 2 * tiny_image.backbone.block_flops(tiny_image.spec)  # 3 blocks, 2 samples
    assert count(dense, batch).total - closed == skipped


@torch.no_grad()
def test_the_first_channel_is_standardised_block_by_block(tiny_image) -> None:
    """Mean and deviation are those of the dense model's first channel after each block."""
    dense, model = _model(tiny_image)
    state = dense.stem(tiny_image.batch(16))
    for number in range(3):
        state = dense.blocks[number](state)
        assert float(model.center[number]) == pytest.approx(float(state.x[..., 0].mean()), abs=1e-5)
        assert float(model.scale[number]) == pytest.approx(float(state.x[..., 0].std()), rel=1e-4)


@pytest.mark.parametrize("pool", POOLS)
@torch.no_grad()
def test_budgets_are_met_on_held_out_data(tiny_image, pool: str) -> None:
    """Every point runs its budget's share of the blocks, at most 2 points less."""
    method = AViT(budgets=[0.5, 0.2, 0.8, 1.0])
    _, model = _model(tiny_image, pool, budgets=method.budgets)
    held_out = [tiny_image.batch(32, 5)]
    method.calibrate(model, held_out)
    shares = []
    for point in method.points():
        method.set_point(model, point)
        shares.append(model.share_running(held_out))
        assert point["budget"] - 0.02 <= shares[-1] <= point["budget"]
    assert shares[-1] == 1.0


def test_bad_settings_get_a_sentence(tiny_image, tiny_pairs) -> None:
    """No budget, shares outside (0, 1], maps, pairs and a single block are refused."""
    with pytest.raises(ValueError, match="budgets is empty"):
        AViT(budgets=[])
    with pytest.raises(ValueError, match="budgets"):
        construct(AViT, {"budgets": [0.0]})
    for spec, backbone, reason in (
        (tiny_image.spec, ResNet([2, 2], [8, 16]), "feature maps"),
        (tiny_pairs.spec, tiny_pairs.backbone, "cross-attention"),
        (tiny_image.spec, replace(tiny_image.backbone, depth=1), "second block"),
    ):
        with pytest.raises(Unsupported, match=reason):
            AViT().build(spec, backbone)
