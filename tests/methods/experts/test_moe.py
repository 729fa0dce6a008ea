"""Token-choice mixture of experts: routing, weights, capacity and auxiliary losses."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from bench import routing
from bench.meters.flops.counter import count
from methods.experts.moe import MoE, MoEFFN, z_loss


def layer(**settings) -> MoEFFN:
    """One mixture of 4 experts of width 12 on tokens of width 8, in inference mode."""
    ffn = MoEFFN(8, 12, MoE(**{"num_experts": 4, **settings})).eval()
    for parameter in ffn.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return ffn


def tokens(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, 8)


def test_dropless_is_the_weighted_sum_of_the_chosen_experts() -> None:
    """Output = sum over the top-k experts of softmax over their logits times the expert."""
    ffn, x = layer(top_k=2), tokens(3, 5)
    expected = torch.zeros_like(x)
    for b in range(3):
        for t in range(5):
            values, chosen = ffn.router(x[b, t]).topk(2)
            for weight, e in zip(values.softmax(-1), chosen, strict=True):
                expected[b, t] += weight * ffn.experts.each()[e](x[b, t])
    torch.testing.assert_close(ffn(x), expected)


def test_all_experts_is_the_softmax_mixture() -> None:
    """With k = E the layer is the dense softmax mixture."""
    ffn, x = layer(top_k=4), tokens(2, 3)
    weights = ffn.router(x).softmax(-1)
    expected = sum(weights[..., e : e + 1] * f(x) for e, f in enumerate(ffn.experts.each()))
    torch.testing.assert_close(ffn(x), expected)


def test_without_normalizing_weights_are_the_probabilities() -> None:
    """Switch: the single chosen expert is scaled by its probability among all experts."""
    ffn, x = layer(top_k=1, normalize=False), tokens(2, 3)
    best, e = ffn.router(x).softmax(-1).max(-1)
    experts = ffn.experts.each()
    expected = torch.stack([experts[e[i, j]](x[i, j]) for i in range(2) for j in range(3)])
    torch.testing.assert_close(ffn(x), best[..., None] * expected.view(2, 3, 8))


def test_permuting_tokens_permutes_outputs() -> None:
    """A token's output depends on no other token when dropless."""
    ffn, x = layer(top_k=2), tokens(1, 20)
    p = torch.randperm(20)
    torch.testing.assert_close(ffn(x[:, p]), ffn(x)[:, p])


def test_ample_capacity_is_dropless() -> None:
    """With room for every token in every expert the capacity variant drops nothing."""
    ffn, x = layer(top_k=2), tokens(2, 6)
    expected = ffn(x)
    ffn.settings.capacity_factor = 2.0  # ceil(2 x 12 x 2 / 4) = 12: all tokens fit
    torch.testing.assert_close(ffn(x), expected)


def test_a_full_expert_drops_later_tokens_to_the_residual() -> None:
    """Tokens beyond the capacity get exactly zero from the layer, so only the residual passes."""
    ffn = layer(top_k=1, normalize=False, capacity_factor=1.0)
    x = tokens(1, 1).expand(2, 4, 8)  # eight equal tokens, all to one expert
    out = ffn(x).flatten(0, 1)  # capacity ceil(1 x 8 x 1 / 4) = 2
    assert (out[:2] != 0).any(-1).all()
    assert torch.equal(out[2:], torch.zeros(6, 8))


def route(ffn: MoEFFN, *first: list[float], mask: torch.Tensor | None = None) -> torch.Tensor:
    """What runs, [B, T, E], for samples whose tokens prefer expert 0 with these probabilities.

    Of two experts. Tokens are (logit, 0, ...) for a router that adds the first entry to expert 0.
    """
    torch.nn.init.zeros_(ffn.router.weight)
    ffn.router.weight.data[0, 0] = 1.0
    x = torch.zeros(len(first), len(first[0]), 8)
    x[..., 0] = torch.tensor(first).logit()
    with routing.observe() as seen:
        ffn(x, mask)
    return seen.decisions[0].run


def test_every_first_choice_is_served_before_any_second() -> None:
    """GShard: a later token's first choice (p = 0.88) wins over an earlier one's second (0.12).

    Two tokens, two experts, capacity ceil(0.5 x 2 x 2 / 2) = 1 each. Token 0 prefers expert 1, and
    expert 0 is its second choice; token 1 prefers expert 0.
    """
    ffn = layer(num_experts=2, top_k=2, capacity_factor=0.5)
    assert route(ffn, [0.12, 0.88]).tolist() == [[[False, True], [True, False]]]


def test_a_causal_layer_serves_positions_in_order() -> None:
    """There the later token may not displace the earlier one: it gets nothing itself."""
    ffn = layer(num_experts=2, top_k=2, capacity_factor=0.5)
    ffn.causal = True
    assert route(ffn, [0.12, 0.88]).tolist() == [[[True, True], [False, False]]]


def test_a_causal_layer_serves_a_position_of_all_samples_before_the_next() -> None:
    """Two samples of two tokens, top-1, all to expert 0, room for ceil(1 x 4 x 1 / 2) = 2.

    In order of samples, sample 0's second token would take the place of sample 1's first.
    """
    ffn = layer(num_experts=2, top_k=1, normalize=False, capacity_factor=1.0)
    everyone = [0.9, 0.9]
    assert route(ffn, everyone, everyone)[..., 0].tolist() == [[True, True], [False, False]]
    ffn.causal = True
    assert route(ffn, everyone, everyone)[..., 0].tolist() == [[True, False], [True, False]]


def test_padding_takes_no_slot_and_makes_no_room() -> None:
    """Two of four tokens are real: room for ceil(1 x 2 x 1 / 2) = 1, which a real one gets."""
    ffn = layer(num_experts=2, top_k=1, normalize=False, capacity_factor=1.0)
    real = torch.tensor([[False, True, True, False]])
    run = route(ffn, [0.9, 0.9, 0.9, 0.9], mask=real)
    assert run[..., 0].tolist() == [[False, True, False, False]]
    assert not run[..., 1].any()


def test_weights_are_normalised_before_dropping() -> None:
    """GShard: a token whose second expert is full keeps its first one's 0.88, not 1."""
    ffn = layer(num_experts=2, top_k=2, capacity_factor=0.5)
    route(ffn, [0.88, 0.12])  # sets the router
    x = torch.zeros(1, 2, 8)
    x[..., 0] = torch.tensor([0.88, 0.12]).logit()
    first, second = ffn.experts.each()
    expected = torch.stack([0.88 * first(x[0, 0]), 0.88 * second(x[0, 1])])[None]
    torch.testing.assert_close(ffn(x), expected)


def test_capacity_at_inference_is_another() -> None:
    """Switch trains with a factor of 1 and evaluates with 2: room for 2, then for 4 of 4."""
    settings = {"capacity_factor": 1.0, "eval_capacity_factor": 2.0}
    ffn = layer(num_experts=2, top_k=1, normalize=False, **settings)
    assert route(ffn, [0.9] * 4).sum() == 4
    assert route(ffn.train(), [0.9] * 4).sum() == 2


def test_with_a_capacity_the_balance_counts_first_choices() -> None:
    """GShard: E sum f_e P_e with f of first choices. Both tokens prefer expert 0, P = (0.8, 0.2).

    First choices only: 2 x (1 x 0.8) = 1.6. Counting both choices f would be (1/2, 1/2): 1.
    """
    ffn = layer(num_experts=2, top_k=2, capacity_factor=9.0, balance_weight=1.0, z_weight=0.0)
    route(ffn, [0.8, 0.8])
    x = torch.zeros(1, 2, 8)
    x[..., 0] = torch.tensor([0.8, 0.8]).logit()
    _, aux_loss = ffn.train()(x)
    assert aux_loss.item() == pytest.approx(1.6)
    ffn.settings.capacity_factor = None
    assert ffn(x)[1].item() == pytest.approx(1.0)


def test_padding_enters_no_loss() -> None:
    """The auxiliary loss of padded tokens is that of the real ones alone."""
    ffn, x = layer().train(), tokens(2, 6)
    real = torch.tensor([1, 1, 1, 1, 0, 0]).bool().expand(2, 6)
    torch.testing.assert_close(ffn(x, real)[1], ffn(x[:, :4])[1])


def test_padding_is_computed_as_by_the_dense_layer() -> None:
    """Dropless, padding runs like any token, so that FLOPs compare with those of dense."""
    ffn, x = layer(), tokens(2, 6)
    torch.testing.assert_close(ffn(x, torch.zeros(2, 6).bool()), ffn(x))


def test_only_a_decoders_layers_are_causal(tiny_text, tiny_image, tiny_pairs) -> None:
    """Of pairs, the encoder's mixtures serve first choices first, the decoder's positions."""

    def causal(tiny: Any) -> list[bool]:
        model = MoE().build(tiny.spec, tiny.backbone)
        return [m.causal for m in model.modules() if isinstance(m, MoEFFN)]

    assert causal(tiny_pairs) == [False] * 4 + [True] * 4
    assert causal(tiny_text) == [True] * 4
    assert causal(tiny_image) == [False] * 4


def test_a_decoders_padding_is_known_by_its_symbol(tiny_pairs) -> None:
    """Where the task names its padding symbol, those positions take no slot."""
    spec = replace(tiny_pairs.spec, decoder_padding=3)
    model = MoE(capacity_factor=9.0).build(spec, tiny_pairs.backbone).eval()
    batch = tiny_pairs.batch(4)
    with routing.observe() as seen:
        model(batch)
    assert torch.equal(seen.decisions[0].run.any(-1), batch.mask)
    assert torch.equal(seen.decisions[-1].run.any(-1), batch.decoder_inputs != 3)


def test_capacity_depends_on_the_batch_and_says_so() -> None:
    """Only the capacity variant is declared batch-dependent."""
    assert MoE().batch_invariant
    assert not MoE(capacity_factor=1.25).batch_invariant


@pytest.mark.parametrize("backend", ["loop", "grouped", "dense_masked"])
def test_backends_agree(backend: str) -> None:
    """Every backend computes the same layer."""
    ffn, x = layer(top_k=2, activation="swiglu"), tokens(2, 9)
    expected = ffn(x)
    ffn.settings.backend = backend
    torch.testing.assert_close(ffn(x), expected)


def test_training_computes_what_inference_computes() -> None:
    """Without jitter, training adds the auxiliary loss and changes no output."""
    ffn, x = layer(), tokens(2, 9)
    trained, aux_loss = ffn.train()(x)
    torch.testing.assert_close(trained, ffn.eval()(x))
    assert aux_loss > 0


def test_jitter_moves_only_the_routers_input() -> None:
    """Jitter perturbs the weights in training and is off at inference."""
    ffn, x = layer(jitter=0.1, top_k=4), tokens(2, 9)
    once, _ = ffn.train()(x)
    again, _ = ffn(x)
    assert not torch.equal(once, again)
    assert torch.equal(ffn.eval()(x), ffn(x))


def test_aux_loss_is_weight_times_one_at_uniform_routing() -> None:
    """A router without preference costs balance_weight x 1 + z_weight x log(E)^2."""
    ffn = layer(balance_weight=0.5, z_weight=0.25).train()
    torch.nn.init.zeros_(ffn.router.weight)
    _, aux_loss = ffn(tokens(2, 6))
    expected = 0.5 * 1 + 0.25 * torch.tensor(4.0).log() ** 2
    torch.testing.assert_close(aux_loss, expected)


def test_z_loss_by_hand() -> None:
    """logits (0, 0) and (ln 3, 0): logsumexp ln 2 and ln 4; the mean of the squares."""
    logits = torch.tensor([[0.0, 0.0], [torch.tensor(3.0).log().item(), 0.0]])
    expected = (torch.tensor(2.0).log() ** 2 + torch.tensor(4.0).log() ** 2) / 2
    torch.testing.assert_close(z_loss(logits), expected)


@pytest.mark.parametrize(
    "settings", [{}, {"top_k": 1, "normalize": False}, {"top_k": 2, "normalize": False}]
)
def test_the_task_loss_alone_teaches_the_router(settings: dict) -> None:
    """The output's gradient reaches the router, without any auxiliary loss."""
    ffn = layer(**settings).train()
    out, _ = ffn(tokens(2, 9))
    out.square().sum().backward()
    assert ffn.router.weight.grad is not None
    assert ffn.router.weight.grad.abs().sum() > 0


def test_experts_without_tokens_get_no_gradient() -> None:
    """An expert that no token chose has a gradient of exactly zero."""
    ffn = layer(top_k=1, normalize=False).train()
    x = tokens(1, 1).expand(2, 4, 8)  # equal tokens: one expert
    with routing.observe() as seen:
        out, _ = ffn(x)
    out.sum().backward()
    used = seen.decisions[0].run.flatten(0, 1).any(0)
    assert used.sum() == 1
    assert ffn.experts.up.grad is not None
    assert torch.equal(ffn.experts.up.grad.flatten(1).abs().sum(1) > 0, used)


def test_forced_decisions_are_obeyed() -> None:
    """Closed gates leave zero, open gates the softmax mixture."""
    ffn, x = layer(top_k=2, normalize=True), tokens(2, 3)
    with routing.force("closed"):
        assert torch.equal(ffn(x), torch.zeros_like(x))
    with routing.force("open"):
        opened = ffn(x)
    ffn.top_k = 4
    torch.testing.assert_close(opened, ffn(x))


def test_decisions_declare_half_of_the_dense_layer(tiny) -> None:
    """By default a token's two experts of a quarter width cost half of the dense layer's FLOPs."""
    model = MoE().build(tiny.spec, tiny.backbone).eval()
    with routing.observe() as seen:
        model(tiny.batch(3))
    dense = 4 * 16 * 32  # 2 x MAC of two matrices 16 x 32, for one token
    assert seen.declared_flops() == 4 * 3 * 16 * dense / 2  # 4 layers, 3 samples of 16 tokens
    assert [d.name for d in seen.decisions] == [f"moe.{i}" for i in range(4)]


def test_operating_points_change_the_number_of_experts(tiny) -> None:
    """Each point routes to that many experts; the first is the trained one."""
    method = MoE()
    model = method.build(tiny.spec, tiny.backbone).eval()
    assert [p["top_k"] for p in method.points()] == [2, 1, 3, 4]
    for point in method.points():
        method.set_point(model, point)
        with routing.observe() as seen:
            model(tiny.batch(2))
        assert all((d.run.sum(-1) == point["top_k"]).all() for d in seen.decisions)


def test_a_sample_alone_equals_the_same_sample_in_a_batch(tiny) -> None:
    """Dropless results do not depend on the batch."""
    model = MoE().build(tiny.spec, tiny.backbone).eval()
    batch = tiny.batch(4)
    alone = model(batch.select(torch.tensor([2]))).logits
    torch.testing.assert_close(alone, model(batch).logits[2:3], atol=1e-5, rtol=1e-5)


def test_training_step_is_finite_everywhere(tiny) -> None:
    """One backward pass gives every parameter a finite gradient."""
    model = MoE(capacity_factor=1.0).build(tiny.spec, tiny.backbone).train()
    output = model(tiny.batch(4))
    (tiny.criterion(output, tiny.batch(4)) + output.aux_loss).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_bf16_autocast_agrees_roughly() -> None:
    """Under bf16 autocast the layer runs and stays within bf16's rounding."""
    ffn, x = layer(top_k=4, activation="swiglu"), tokens(2, 9)
    with torch.autocast("cpu", torch.bfloat16):
        got = ffn(x)
    torch.testing.assert_close(got.float(), ffn(x), atol=0.02, rtol=0.05)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"top_k": 9}, "8 experts"),
        ({"top_k": 1}, "normalize=False"),
        ({"activation": "relu6"}, "relu6"),
        ({"backend": "magic"}, "magic"),
        ({"num_experts": 0}, "num_experts=0: must be at least 1"),
        ({"hidden_ratio": 0.0}, "hidden_ratio=0.0: must be above 0"),
        ({"capacity_factor": 0.0}, "capacity_factor=0.0: must be above 0"),
        ({"eval_capacity_factor": 2.0}, "needs a capacity_factor"),
        ({"jitter": 1.0}, "jitter=1.0: must be at least 0 and below 1"),
    ],
)
def test_impossible_settings_are_refused(settings: dict, message: str) -> None:
    """Settings that cannot work raise ValueError with the reason, before anything is built."""
    with pytest.raises(ValueError, match=message):
        MoE(**settings)


@pytest.mark.parametrize("backend", ["loop", "grouped"])
def test_executed_flops_are_the_declared_ones(backend: str) -> None:
    """Counted FLOPs of the experts equal the decisions', and the rest is the router's."""
    ffn, x = layer(top_k=2, activation="swiglu", backend=backend), tokens(2, 9)
    with routing.observe() as seen:
        counted = count(ffn, x, strict=True)
    assert counted.by_region["expert"] == seen.declared_flops() == 2 * 9 * 2 * 2 * (3 * 8 * 12)
    assert counted.total - counted.by_region["expert"] == 2 * 9 * 2 * 8 * 4  # the router


def test_the_oracle_backend_skips_nothing() -> None:
    """dense_masked executes every expert on every token: E / k times the declared FLOPs."""
    ffn, x = layer(top_k=2, backend="dense_masked"), tokens(2, 9)
    with routing.observe() as seen:
        counted = count(ffn, x, strict=True)
    assert counted.by_region["expert"] == seen.declared_flops() * 4 / 2


def test_losses_over_padding_only_are_zero() -> None:
    """Balance and z loss of a batch without a real token, with and without a capacity."""
    for capacity in (None, 1.25):
        ffn = layer(capacity_factor=capacity).train()
        y, loss = ffn(tokens(2, 5), torch.zeros(2, 5, dtype=torch.bool))
        assert loss.item() == 0.0
        (y.sum() + loss).backward()
        assert ffn.router.weight.grad.isfinite().all()
