"""Adaptive computation time: when tokens halt, and what their states weigh."""

from __future__ import annotations

import math

import pytest
import torch

from bench import routing
from bench.meters.flops.counter import count
from bench.types import TaskSpec, Unsupported
from methods.allocation.act import ACT, PonderingTrunk
from methods.backbone.resnet import ResNet
from methods.parts.tokens.halting import advance, begin


def make_model(tiny, probability: float | None = None, **settings) -> PonderingTrunk:
    """The tiny transformer; every token halts with this probability after each step."""
    model = ACT(**settings).build(tiny.spec, tiny.backbone).eval()
    if probability is None:
        torch.nn.init.normal_(model.halt.weight, std=2.0)  # tokens differ
    else:
        torch.nn.init.zeros_(model.halt.weight)
        torch.nn.init.constant_(model.halt.bias, math.log(probability / (1 - probability)))
    return model


def test_one_token_by_hand() -> None:
    """h = 0.3, 0.5, 0.4: the sum reaches 0.99 with the third; weights 0.3, 0.5 and 0.2 of rest."""
    at, weights = begin(torch.tensor([[True]])), []
    for h in (0.3, 0.5, 0.4):
        total = at.total + h
        left, at = at.left, advance(at, total < 0.99, torch.tensor([[h]]), total)
        weights.append((left - at.left).item())
    assert weights == pytest.approx([0.3, 0.5, 0.2])
    assert not at.live.any()


def test_weights_sum_to_one(tiny) -> None:
    """Of every real token, whenever it halts; padding has none."""
    model = make_model(tiny)
    torch.nn.init.normal_(model.halt.weight, std=100.0)  # embeddings are small at first
    stats = model(tiny.batch(8)).stats
    real = stats["depth"] >= 0
    torch.testing.assert_close(stats["weights"].sum(0), real.float())
    assert (stats["weights"] >= 0).all()
    assert len(stats["depth"][real].unique()) > 1


def test_ponder_cost_by_hand(tiny_image) -> None:
    """h = 0.4: sums 0.4, 0.8, 1.2, so N = 3 and the rest is 0.2: (3 + 0.2) x 0.5 = 1.6.

    Its gradient raises h: more of the weight goes to earlier steps.
    """
    model = make_model(tiny_image, 0.4, ponder_weight=0.5).train()
    output = model(tiny_image.batch(2))
    assert (output.stats["depth"] == 2).all()  # steps after the first
    assert output.aux_loss.item() == pytest.approx(0.5 * 3.2)
    output.aux_loss.backward()
    # d rest / d b = -2 h (1 - h) = -0.48, times 0.5
    assert model.halt.bias.grad.item() == pytest.approx(-0.24)


def test_untrained_every_token_runs_all_steps(tiny_image) -> None:
    """h = 1/4 at first: after three of four steps the sum is 0.75."""
    model = ACT().build(tiny_image.spec, tiny_image.backbone)
    torch.nn.init.zeros_(model.halt.weight)
    stats = model(tiny_image.batch(2)).stats
    assert (stats["depth"] == 3).all()
    torch.testing.assert_close(stats["weights"], torch.full((4, 2, 16), 0.25))


def test_one_block_in_all_steps(tiny_image) -> None:
    """One block's weights, and the dense model's FLOPs beside the halting unit when all steps run.

    The unit costs 2 D = 32 FLOPs for each of 16 tokens after three steps.
    """
    model, batch = make_model(tiny_image), tiny_image.batch(1)
    assert len(model.trunk.blocks) == 1
    with routing.force("open"):
        executed = count(model, batch).total
    assert executed - count(tiny_image.backbone.build(tiny_image.spec), batch).total == 3 * 16 * 32


def test_halted_tokens_are_not_computed(tiny_text) -> None:
    """Each step's layers get the live tokens, and a token never comes back."""
    model, brought = make_model(tiny_text), []
    model.trunk.blocks[0].ffn.register_forward_hook(
        lambda _, args, out: brought.append(args[0].flatten(0, -2).shape[0])
    )
    depth = model(tiny_text.batch(6)).stats["depth"]
    expected = [6 * 16, *(int((depth >= n).sum()) for n in (1, 2, 3))]
    assert brought == [n for n in expected if n]
    assert expected[-1] < expected[0]


def test_a_budget_is_the_mean_share_of_steps(tiny_image) -> None:
    """Calibrated, each budget runs at most its share of the steps after the first."""
    method = ACT()
    model = make_model(tiny_image)
    batches = [tiny_image.batch(32, seed) for seed in range(2)]
    method.calibrate(model, batches)
    for point in method.points():
        method.set_point(model, point)
        assert model.share_running(batches) <= point["budget"]
    assert float(model.shift.fitted[0]) < float(model.shift.fitted[1])


def test_what_cannot_halt_is_unsupported(tiny_image) -> None:
    """Feature maps are no tokens, and one step cannot be left out."""
    with pytest.raises(Unsupported, match="tokens"):
        ACT().build(TaskSpec("i", "image", (1, 8, 8), 5), ResNet())
    backbone = type(tiny_image.backbone)(dim=16, depth=1, num_heads=2)
    with pytest.raises(Unsupported, match="second step"):
        ACT().build(tiny_image.spec, backbone)
    assert ACT(max_steps=3).build(tiny_image.spec, backbone).num_steps == 3
