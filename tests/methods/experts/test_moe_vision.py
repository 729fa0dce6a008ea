"""V-MoE: batch-priority routing, capacity, losses and which blocks are routed."""

from __future__ import annotations

import math

import pytest
import torch

from bench import routing
from bench.meters.flops.counter import count
from bench.types import TaskSpec, Unsupported
from methods.backbone.resnet import ResNet
from methods.experts.moe_vision import MoEVision, PriorityFFN, aux_loss, squared_variation


def layer(**settings) -> PriorityFFN:
    """One mixture of 2 experts of width 16 on tokens of width 8, in inference mode."""
    ffn = PriorityFFN(8, 16, MoEVision(**{"num_experts": 2, **settings}), "moe").eval()
    for parameter in ffn.experts.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    # A router that adds a token's first entry to the logit of expert 0.
    torch.nn.init.zeros_(ffn.router.weight)
    ffn.router.weight.data[0, 0] = 1.0
    return ffn


def tokens(*samples: list[float]) -> torch.Tensor:
    """Tokens [B, T, 8] whose probability of expert 0 is as given."""
    x = torch.zeros(len(samples), len(samples[0]), 8)
    x[..., 0] = torch.tensor(samples).logit()
    return x


def route(ffn: PriorityFFN, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """What runs, [B, T, E]."""
    with routing.observe() as seen:
        ffn(x, mask)
    return seen.decisions[0].run


def test_the_largest_weights_are_served_first() -> None:
    """Four tokens prefer expert 0; ceil(1 x 1 x 4 / 2) = 2 places go to 0.9 and 0.8, wherever."""
    ffn = layer(top_k=1, capacity=1.0)
    run = route(ffn, tokens([0.6, 0.9], [0.7, 0.8]))
    assert run[..., 0].tolist() == [[False, True], [False, True]]
    assert not run[..., 1].any()


def test_first_choices_come_before_second_ones() -> None:
    """C = 1/4 with two tokens and K = 2: one place each, ceil(2 x 2 / 4 / 2) = 1.

    Token 0 (0.9) takes expert 0, token 1 (0.8) wants it too and is turned away. Second choices:
    token 0's weight is the larger one, so it takes expert 1 as well.
    """
    ffn = layer(top_k=2, capacity=0.25)
    assert route(ffn, tokens([0.9, 0.8])).tolist() == [[[True, True], [False, False]]]
    # Token 1 prefers expert 1: both get their first choice, and no place is left.
    assert route(ffn, tokens([0.9, 0.2])).tolist() == [[[True, False], [False, True]]]


def test_padding_takes_no_place() -> None:
    """Two of four tokens are real: ceil(1 x 1 x 2 / 2) = 1 place, for the better real one."""
    ffn = layer(top_k=1, capacity=1.0)
    real = torch.tensor([[True, True, False, False]])
    run = route(ffn, tokens([0.6, 0.7, 0.9, 0.8]), real)
    assert run[..., 0].tolist() == [[False, True, False, False]]


def test_weights_are_probabilities_and_what_has_no_place_gets_nothing() -> None:
    """0.9 f_0(x) for the token with a place, 0 for the other."""
    ffn, x = layer(top_k=1, capacity=0.5), tokens([0.6, 0.9])  # ceil(0.5 x 2 / 2) = 1 place
    expected = 0.9 * ffn.experts.each()[0](x[0, 1])
    out = ffn(x)[0]
    torch.testing.assert_close(out[1], expected)
    assert torch.equal(out[0], torch.zeros(8))


def test_ample_capacity_turns_nobody_away() -> None:
    """C = E / K has a place for every token in every expert: the plain sum over the chosen."""
    ffn, x = layer(top_k=2, capacity=1.0), tokens([0.6, 0.9, 0.3])
    first, second = ffn.experts.each()
    p = torch.tensor([0.6, 0.9, 0.3])[:, None]
    torch.testing.assert_close(ffn(x)[0], p * first(x[0]) + (1 - p) * second(x[0]))


def test_noise_is_drawn_in_training_only() -> None:
    """Equal logits: inference always takes expert 0, training noise of 1 / E takes both."""
    ffn, x = layer(top_k=1, capacity=2.0), tokens([0.5] * 64)
    assert route(ffn, x)[..., 0].all()
    taken = route(ffn.train(), x)[..., 0].sum()
    assert 16 < taken < 48  # 32 expected, deviation 4


def test_squared_variation_by_hand() -> None:
    """Of 1 and 3: mean 2, variance 1, so 1/4; of equal totals and of none 0."""
    assert squared_variation(torch.tensor([1.0, 3.0])) == 0.25
    assert squared_variation(torch.tensor([2.0, 2.0])) == 0
    assert squared_variation(torch.tensor([0.0, 0.0])) == 0


def test_auxiliary_loss_by_hand() -> None:
    """One token with p = 0.9 of two experts, noise 1/2, K = 1, no noise drawn.

    Importance 0.9 and 0.1: (0.4 / 0.5)^2 = 0.64. Load: the threshold is the logit of expert 0,
    log 9 above that of expert 1, so 1/2 and 1 - Phi(2 log 9); their loss is (a - b)^2 / (a + b)^2.
    """
    logits = torch.tensor([[math.log(9.0), 0.0]])
    a, b = 0.5, 0.5 * math.erfc(2 * math.log(9) / math.sqrt(2))
    expected = 0.5 * (0.64 + ((a - b) / (a + b)) ** 2)
    assert aux_loss(logits, logits, 1, 0.5).item() == pytest.approx(expected, rel=1e-5)


def test_even_use_costs_nothing() -> None:
    """Two tokens with mirrored preferences load and weigh both experts alike."""
    logits = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert aux_loss(logits, logits, 1, 0.5).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(("num_layers", "expected"), [(None, [1, 3]), (1, [3])])
def test_every_second_block_or_the_last_of_these(tiny_image, num_layers, expected) -> None:
    """Of four blocks the second and the fourth are routed; of these, the last one."""
    model = MoEVision(num_layers=num_layers).build(tiny_image.spec, tiny_image.backbone)
    routed = [isinstance(block.ffn, PriorityFFN) for block in model.blocks]
    assert [i for i, yes in enumerate(routed) if yes] == expected


def test_capacity_sets_the_cost(tiny_image) -> None:
    """16 tokens, E = 8, K = 2, all places taken at C = 1/4: 8 experts x 1 place in two layers.

    A place costs 4 D H = 4 x 16 x 16 FLOPs, with half of the tiny backbone's H = 32.
    """
    method = MoEVision()
    model = method.build(tiny_image.spec, tiny_image.backbone).eval()
    for ffn in (block.ffn for block in model.blocks if isinstance(block.ffn, PriorityFFN)):
        torch.nn.init.zeros_(ffn.router.weight)  # ties: every token takes experts 0 and 1
    method.set_point(model, {"top_k": 2, "capacity": 0.25})
    batch = tiny_image.batch(1)
    with routing.force("closed"):
        closed = count(model, batch).total
    # Experts 0 and 1 have ceil(0.25 x 16 x 2 / 8) = 1 place each.
    assert count(model, batch).total - closed == 2 * 2 * 4 * 16 * 16


def test_points_go_from_the_trained_setting_to_cheap() -> None:
    """Both numbers of experts at every capacity, the trained one first and once."""
    points = MoEVision(capacity=1.0, capacities=[1.0, 0.5]).points()
    assert points[0] == {"top_k": 2, "capacity": 1.0}
    assert [(p["top_k"], p["capacity"]) for p in points[1:]] == [(2, 0.5), (1, 1.0), (1, 0.5)]


def test_what_does_not_fit_is_refused(tiny_text) -> None:
    """Text, convolutional backbones and too few blocks have a reason, settings a sentence."""
    with pytest.raises(Unsupported, match="causal"):
        MoEVision().build(tiny_text.spec, tiny_text.backbone)
    image = TaskSpec("i", "image", (1, 8, 8), 5)
    with pytest.raises(Unsupported, match="feed-forward"):
        MoEVision().build(image, ResNet())
    with pytest.raises(Unsupported, match="every second of 9 blocks is 4"):
        MoEVision(num_layers=5).build(image, ResNet())
    with pytest.raises(ValueError, match="there are 4 experts"):
        MoEVision(num_experts=4, top_k=5)
