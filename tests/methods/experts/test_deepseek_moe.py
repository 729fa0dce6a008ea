"""Fine-grained and shared experts with bias balancing."""

from __future__ import annotations

import pytest
import torch

from bench import routing
from bench.meters.flops.counter import count
from methods.experts.deepseek_moe import DeepSeekFFN, DeepSeekMoE


def layer(**settings) -> DeepSeekFFN:
    """Eight routed experts and one shared, of width 4, on tokens of width 8; in inference mode."""
    ffn = DeepSeekFFN(8, 4, DeepSeekMoE(**{"num_experts": 8, "top_k": 2, **settings})).eval()
    for parameter in ffn.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return ffn


def decisions(ffn: DeepSeekFFN, x: torch.Tensor) -> torch.Tensor:
    """What runs, [B, T, E]."""
    with routing.observe() as seen:
        ffn(x)
    return seen.decisions[0].run


def test_output_is_shared_plus_weighted_routed_experts() -> None:
    """Weights are the chosen sigmoid scores divided by their sum, times the route scale."""
    ffn, x = layer(route_scale=2.5), torch.randn(2, 3, 8)
    score = ffn.router(x).sigmoid()
    values, chosen = score.topk(2)
    weights = 2.5 * values / values.sum(-1, keepdim=True)
    experts = ffn.experts.each()
    expected = ffn.shared.each()[0](x)
    for b in range(2):
        for t in range(3):
            for w, e in zip(weights[b, t], chosen[b, t], strict=True):
                expected[b, t] += w * experts[e](x[b, t])
    torch.testing.assert_close(ffn(x), expected)


def test_a_common_bias_changes_nothing() -> None:
    """Adding a constant to every expert's bias leaves selection and outputs unchanged."""
    ffn, x = layer(), torch.randn(2, 9, 8)
    before, expected = decisions(ffn, x), ffn(x)
    ffn.bias += 0.7
    assert torch.equal(decisions(ffn, x), before)
    torch.testing.assert_close(ffn(x), expected)


def test_the_bias_selects_but_does_not_weigh() -> None:
    """A bias can bring an expert in; its weight still comes from its unbiased score."""
    ffn, x = layer(top_k=1), torch.randn(1, 6, 8)
    ffn.bias[3] = 10.0
    assert decisions(ffn, x)[..., 3].all()
    expected = ffn.experts.each()[3](x) + ffn.shared.each()[0](x)  # one expert: weight 1
    torch.testing.assert_close(ffn(x), expected)


def test_rebalancing_by_hand() -> None:
    """Loads 3, 1, 1, 3 (mean 2) move the biases by -g, +g, +g, -g; then counting starts anew."""
    ffn = layer(num_experts=4)
    ffn.load.copy_(torch.tensor([3.0, 1.0, 1.0, 3.0]))
    ffn.rebalance(0.001)
    torch.testing.assert_close(ffn.bias, torch.tensor([-0.001, 0.001, 0.001, -0.001]))
    assert not ffn.load.any()


def test_balancing_evens_out_the_load() -> None:
    """On fixed inputs, steps of after_step bring the busiest expert near the mean load."""
    ffn, x = layer(), torch.randn(4, 64, 8) + 0.5
    method = DeepSeekMoE(bias_rate=0.01)

    def violation() -> float:
        load = decisions(ffn, x).flatten(0, 1).sum(0)
        return float(load.max() / load.float().mean()) - 1

    before = violation()
    ffn.train()
    for _ in range(200):
        ffn(x)
        method.after_step(ffn, 0.0)
    assert violation() < 0.25 < before


def test_inference_counts_no_load() -> None:
    """Only training steps move the load counters."""
    ffn = layer()
    ffn(torch.randn(1, 4, 8))
    assert not ffn.load.any()
    ffn.train()(torch.randn(1, 4, 8))
    assert ffn.load.sum() == 4 * 2


def test_padding_counts_no_load_but_runs() -> None:
    """Two of four tokens are real, with two experts each; padding is computed all the same."""
    ffn, x = layer().train(), torch.randn(1, 4, 8)
    out = ffn(x, torch.tensor([[True, True, False, False]]))
    assert ffn.load.sum() == 2 * 2
    torch.testing.assert_close(out, ffn.eval()(x))


def test_softmax_scores_weigh_as_they_are() -> None:
    """DeepSeekMoE-16B: the chosen experts' probabilities among all, not normalised."""
    ffn, x = layer(scores="softmax", num_shared=0, top_k=1), torch.randn(1, 5, 8)
    best, e = ffn.router(x).softmax(-1).max(-1)
    experts = ffn.experts.each()
    expected = torch.stack([best[0, t] * experts[e[0, t]](x[0, t]) for t in range(5)])[None]
    torch.testing.assert_close(ffn(x), expected)


def test_balance_loss_by_hand() -> None:
    """A router without preference costs the weight times 1, in training, real tokens only."""
    ffn = layer(scores="softmax", balance_weight=0.5).train()
    torch.nn.init.zeros_(ffn.router.weight)
    _, aux_loss = ffn(torch.randn(1, 4, 8), torch.tensor([[True, True, False, False]]))
    assert aux_loss.item() == pytest.approx(0.5)


def test_points_stay_among_the_experts_of_the_best_groups(tiny_image) -> None:
    """Two of eight groups of two hold four experts: six cannot be chosen."""
    method = DeepSeekMoE(num_experts=16, num_groups=8, top_groups=2)
    assert [point["top_k"] for point in method.points()] == [3, 1, 2, 4]
    model = method.build(tiny_image.spec, tiny_image.backbone).eval()
    for point in method.points():
        method.set_point(model, point)
        with routing.observe() as seen:
            model(tiny_image.batch(2))
        assert (seen.decisions[0].run.sum(-1) == point["top_k"]).all()


def test_group_limited_selection_stays_in_the_best_groups() -> None:
    """With 1 of 4 groups, both experts come from the group whose two best scores add up to most."""
    ffn, x = layer(num_groups=4, top_groups=1), torch.randn(2, 9, 8)
    run = decisions(ffn, x).unflatten(-1, (4, 2))  # [B, T, groups, 2]
    best = ffn.router(x).sigmoid().unflatten(-1, (4, 2)).sum(-1).argmax(-1)
    assert torch.equal(run.all(-1).int().argmax(-1), best)
    assert (run.any(-1).sum(-1) == 1).all()


def test_executed_flops_are_declared_plus_shared_and_router() -> None:
    """Routed experts cost what the decisions declare; shared expert and router run for all."""
    ffn, x = layer(), torch.randn(2, 9, 8)
    with routing.observe() as seen:
        counted = count(ffn, x, strict=True)
    assert counted.by_region["expert"] == seen.declared_flops() == 18 * 2 * (4 * 8 * 4)
    assert counted.by_region["router"] == 18 * 2 * 8 * 8
    assert counted.by_region["backbone"] == 18 * 4 * 8 * 4


def test_forced_decisions_are_obeyed() -> None:
    """With every gate closed only the shared expert runs."""
    ffn, x = layer(), torch.randn(2, 3, 8)
    with routing.force("closed"):
        torch.testing.assert_close(ffn(x), ffn.shared.each()[0](x))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"top_k": 17}, "top_k=17: only 16 experts can be chosen from"),
        ({"num_groups": 3}, "1 of 3 groups of 16 experts"),
        ({"num_groups": 0}, "num_groups=0: must be at least 1"),
        ({"num_groups": 8, "top_groups": 1}, "top_k=3: only 2 experts can be chosen from"),
        ({"scores": "tanh"}, "scores='tanh': choose one of 'sigmoid', 'softmax'"),
    ],
)
def test_impossible_settings_are_refused(settings: dict, message: str) -> None:
    """More chosen than can be chosen, groups that do not divide, other scores: ValueError."""
    with pytest.raises(ValueError, match=message):
        DeepSeekMoE(**settings)
