"""Multi-branch layers: one branch per sample, or per token where the future must stay unseen."""

from __future__ import annotations

import pytest
import torch

from bench import routing
from bench.meters.flops.counter import count
from methods.branches.branches import BranchedFFN, Branches


def layer(*, per_token: bool = False, **settings) -> BranchedFFN:
    """Branches of width 4, 8 and 16 on tokens of width 8, in inference mode."""
    return BranchedFFN(8, 16, Branches(**settings), per_token=per_token).eval()


def chosen(seen: routing.Observation) -> torch.Tensor:
    """The decisions of one layer side by side, [..., branches]."""
    (decision,) = seen.decisions
    return decision.run


@pytest.mark.parametrize("per_token", [False, True])
def test_one_hot_routing_is_that_branch(per_token: bool) -> None:
    """Every sample (or token) gets exactly its own branch's output, unscaled."""
    ffn, x = layer(per_token=per_token), torch.randn(6, 5, 8)
    with routing.observe() as seen:
        out = ffn(x)
    run = chosen(seen)  # [6, 3] or [6, 5, 3]
    assert (run.sum(-1) == 1).all()
    assert run.flatten(0, -2).any(0).sum() > 1  # more than one branch is in use
    every = torch.stack([branch(x) for branch in ffn.branches.each()], -1)  # [6, 5, 8, 3]
    mask = run[:, :, None] if per_token else run[:, None, None]
    torch.testing.assert_close(out, (every * mask).sum(-1))


def test_decisions_carry_each_branchs_cost() -> None:
    """A branch of h hidden neurons costs 4 D h FLOPs per token, times the tokens of a sample."""
    with routing.observe() as seen:
        layer()(torch.randn(2, 5, 8))
    (decision,) = seen.decisions
    assert decision.axes == routing.SAMPLE_CHOICES
    assert decision.costs() == [5 * 4 * 8 * h for h in (4, 8, 16)]
    assert decision.run.shape == (2, 3)


def test_causal_tasks_choose_per_token_and_never_see_the_future(tiny_text) -> None:
    """Changing the last token changes no earlier logits and no earlier decision."""
    model = Branches().build(tiny_text.spec, tiny_text.backbone).eval()
    batch = tiny_text.batch(2)
    changed = batch.map(torch.clone)
    changed.inputs[:, -1] = (changed.inputs[:, -1] + 1) % 11
    with routing.observe() as seen:
        before = model(batch).logits
    with routing.observe() as seen_changed:
        after = model(changed).logits
    torch.testing.assert_close(after[:, :-1], before[:, :-1])
    for old, new in zip(seen.decisions, seen_changed.decisions, strict=True):
        assert torch.equal(old.run[:, :-1], new.run[:, :-1])


def test_training_samples_branches_and_gives_the_gate_a_gradient() -> None:
    """The task loss alone reaches the gate, though only the sampled branch is computed."""
    ffn, x = layer().train(), torch.randn(8, 5, 8)
    with routing.observe() as seen:
        out, _ = ffn(x)
    out.square().sum().backward()
    assert (chosen(seen).sum(-1) == 1).all()
    assert ffn.gate.weight.grad is not None
    assert ffn.gate.weight.grad.abs().sum() > 0


def test_training_equals_inference_under_replayed_decisions(tiny) -> None:
    """With the same branches, the sampled training pass computes what inference computes."""
    model = Branches().build(tiny.spec, tiny.backbone).eval()
    batch = tiny.batch(4)
    with routing.observe() as seen:
        expected = model(batch).logits
    with routing.replay(seen):
        got = model.train()(batch).logits
    torch.testing.assert_close(got, expected)


def test_auxiliary_loss_by_hand() -> None:
    """A gate without preference costs balance x 1 + cost x the mean share of FLOPs."""
    ffn = layer(balance_weight=0.5, cost_weight=0.3, budget=None).train()
    torch.nn.init.zeros_(ffn.gate.weight)
    torch.nn.init.zeros_(ffn.gate.bias)
    _, aux_loss = ffn(torch.randn(4, 5, 8))
    mean_share = (4 + 8 + 16) / 3 / 16
    assert aux_loss.item() == pytest.approx(0.5 + 0.3 * mean_share)


def test_padding_votes_for_no_branch() -> None:
    """Per sample, padding enters neither the mean token nor the choice."""
    ffn, x = layer(), torch.randn(6, 5, 8)
    real = torch.tensor([1, 1, 1, 0, 0]).bool().expand(6, 5)
    with routing.observe() as seen:
        ffn(torch.where(real[..., None], x, 9.0), real)
    with routing.observe() as short:
        ffn(x[:, :3])
    torch.testing.assert_close(
        torch.stack([d.probabilities for d in seen.decisions]),
        torch.stack([d.probabilities for d in short.decisions]),
    )


def test_padding_enters_no_loss() -> None:
    """Per token, the auxiliary loss of padded tokens is that of the real ones alone."""
    ffn, x = layer(per_token=True, budget=None, cost_weight=0.3).train(), torch.randn(1, 5, 8)
    real = torch.tensor([[1, 1, 1, 0, 0]]).bool()
    choose = torch.tensor([0, 2, 0, 1, 1])  # a branch for each token

    def loss(x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        def chosen(decision: routing.Decision) -> torch.Tensor:
            return torch.nn.functional.one_hot(choose[None, : x.shape[1]], 3).bool()

        with routing.override(chosen):
            return ffn(x, mask)[1]

    torch.testing.assert_close(loss(x, real), loss(x[:, :3], None))


def test_a_budget_raises_the_price_of_compute() -> None:
    """Above the budget the multiplier grows with every step, in training only."""
    ffn = layer(budget=0.1, cost_weight=0.0)
    ffn(torch.randn(4, 5, 8))
    assert ffn.budget.weight == 0
    ffn.train()(torch.randn(4, 5, 8))
    assert ffn.budget.weight > 0


def test_forced_gates_are_obeyed() -> None:
    """Exactly one branch runs: of open gates the most expensive, of closed ones the cheapest."""
    ffn, x = layer(), torch.randn(3, 5, 8)
    branches = ffn.branches.each()
    with routing.force("closed"):
        torch.testing.assert_close(ffn(x), branches[0](x))
    with routing.force("open"):
        torch.testing.assert_close(ffn(x), branches[2](x))


def test_a_sample_alone_equals_the_same_sample_in_a_batch(tiny) -> None:
    """Results do not depend on the batch."""
    model = Branches().build(tiny.spec, tiny.backbone).eval()
    batch = tiny.batch(4)
    alone = model(batch.select(torch.tensor([2]))).logits
    torch.testing.assert_close(alone, model(batch).logits[2:3], atol=1e-5, rtol=1e-5)


def test_one_branch_is_no_choice() -> None:
    """Fewer than two branches raise ValueError."""
    with pytest.raises(ValueError, match="two branches"):
        Branches(widths=[1.0])


@pytest.mark.parametrize("per_token", [False, True])
def test_executed_flops_are_the_declared_ones(per_token: bool) -> None:
    """Counted FLOPs of the branches equal the decisions'."""
    ffn, x = layer(per_token=per_token), torch.randn(6, 5, 8)
    with routing.observe() as seen:
        counted = count(ffn, x, strict=True)
    assert counted.by_region["expert"] == seen.declared_flops() > 0


def test_a_batch_of_padding_only_costs_nothing() -> None:
    """No token to balance or to price: a loss of 0, and the budget's multiplier stays."""
    ffn = layer(per_token=True).train()
    before = {name: buffer.clone() for name, buffer in ffn.budget.named_buffers()}
    y, loss = ffn(torch.randn(3, 5, 8), torch.zeros(3, 5, dtype=torch.bool))
    assert (loss.item(), bool(y.isfinite().all())) == (0.0, True)
    for name, buffer in ffn.budget.named_buffers():
        assert torch.equal(buffer, before[name])


def test_a_price_moves_the_choice(tiny_image) -> None:
    """Widths 1/4, 1/2 and 1 cost 0.25, 0.5 and 1: by hand, logits 0, 0.3 and 0.6 less price x cost.

    At 0 the dearest wins; at 1 they are -0.25, -0.2, -0.4: the middle; at 2 -0.5, -0.7, -1.4.
    """
    method = Branches()
    model = method.build(tiny_image.spec, tiny_image.backbone).eval()
    for layer in model.modules():
        if isinstance(layer, BranchedFFN):
            layer.gate.weight.data.zero_()
            layer.gate.bias.data = torch.tensor([0.0, 0.3, 0.6])
    for price, chosen in ((0.0, 2), (1.0, 1), (2.0, 0), (-4.0, 2)):
        assert {"price": price} in method.points()
        method.set_point(model, {"price": price})
        with routing.observe() as seen:
            model(tiny_image.batch(2))
        assert all(d.run.int().argmax(-1).unique().tolist() == [chosen] for d in seen.decisions)
