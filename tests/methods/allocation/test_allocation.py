"""Compute allocation: a function of each token, or sample, opens and closes every block."""

from __future__ import annotations

import dataclasses
import math
from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F

from bench import routing
from bench.meters.flops.counter import count
from bench.types import Output, TaskSpec, Unsupported
from methods.allocation.allocation import Allocation, AllocationModel
from methods.backbone.msdnet import MSDNet
from methods.backbone.resnet import ResNet

IMAGE = TaskSpec("i", "image", (1, 8, 8), 5)
A = 1 / (1 + math.exp(-2))  # a of a gate whose logit is 2: 0.8808


def make_model(tiny, bias: float | None = None, **settings) -> AllocationModel:
    """The tiny transformer with gates that begin at `bias`, in inference mode."""
    model = Allocation(**settings).build(tiny.spec, tiny.backbone).eval()
    for gate in model.gates.values() if bias is not None else ():
        torch.nn.init.constant_(gate[2].bias, bias)
        torch.nn.init.normal_(gate[0].weight, std=3.0)  # tokens differ
    return model


def make_flat(tiny, **settings) -> AllocationModel:
    """Gates whose logit is 2 for every token."""
    model = make_model(tiny, **settings)
    for gate in model.gates.values():
        torch.nn.init.zeros_(gate[2].weight)
    return model


def test_the_function_by_hand(tiny_image) -> None:
    """W1 = (1, -1), W2 = (2, 3), b = -1: for x = 4 the logit is 2 x 4 + 3 x 0 - 1 = 7."""
    gate = make_model(tiny_image, hidden=2).gates["0"]
    gate[0].weight.data.zero_()
    gate[0].weight.data[:, 0] = torch.tensor([1.0, -1.0])
    gate[0].bias.data.zero_()
    gate[2].weight.data = torch.tensor([[2.0, 3.0]])
    gate[2].bias.data.fill_(-1.0)
    x = torch.zeros(2, 16)
    x[0, 0], x[1, 0] = 4.0, -4.0
    assert gate(x)[:, 0].tolist() == [7.0, 11.0]  # 2 x 0 + 3 x 4 - 1


def test_tokens_skip_and_their_state_stays(tiny) -> None:
    """A block changes exactly the tokens that run it, and is called on no other."""
    model, batch = make_model(tiny, bias=0.0), tiny.batch(6)
    brought: list[int] = []
    for block in model.trunk.blocks:
        block.ffn.register_forward_hook(
            lambda _, args, out: brought.append(args[0].flatten(0, -2).shape[0])
        )
    with routing.observe() as seen:
        model(batch)
    assert [d.name for d in seen.decisions] == [f"block{i}" for i in range(4)]
    assert [int(d.run.sum()) for d in seen.decisions] == brought
    assert 0 < sum(brought) < 4 * 6 * 16


def test_a_decoders_token_pays_for_what_it_reads(tiny_pairs) -> None:
    """D = 16, H = 32, S = 16 of the encoder's tokens; what is not the token's is the sample's.

    A token: self-attention 8 D^2 = 2,048, query and output of cross-attention 4 D^2 = 1,024, its
    scores and mixing 4 S D = 1,024, feed-forward 4 D H = 2,048: 6,144. A pair of tokens 4 D = 64. A
    sample: keys and values of the encoder's output, 4 S D^2 = 16,384.
    """
    model = make_model(tiny_pairs, bias=0.0)
    with routing.observe() as seen:
        model(tiny_pairs.batch(2))
    assert {d.cost for d in seen.decisions} == {routing.Cost(6144.0, 64.0, 16384.0)}


def test_a_decoder_executes_what_it_declares(tiny_pairs) -> None:
    """One sample, half of the tokens at random: FLOPs beyond closed gates are the declared ones."""
    model, batch = make_model(tiny_pairs), tiny_pairs.batch(1)
    with routing.force("closed"):
        closed = count(model, batch).total
    random = torch.Generator().manual_seed(3)
    with routing.force("random", share=0.5, generator=random), routing.observe() as seen:
        executed = count(model, batch).total
    assert executed - closed == seen.declared_flops() > 0


def test_a_decoders_padding_never_runs(tiny_pairs) -> None:
    """Padding of the decoder's side is not eligible, whatever is forced."""
    spec = dataclasses.replace(tiny_pairs.spec, decoder_padding=0)
    model = Allocation().build(spec, tiny_pairs.backbone).eval()
    batch = tiny_pairs.batch(3)
    batch.decoder_inputs[:, 5:] = 0
    with routing.force("open"), routing.observe() as seen:
        model(batch)
    real = batch.decoder_inputs != 0
    assert all(torch.equal(d.run, real) for d in seen.decisions)


def test_the_price_is_lambda_times_the_sum(tiny_image) -> None:
    """16 tokens x 4 blocks of a = 0.8808: the literal price is 0.1 x 64 a = 5.637, per sample.

    Its gradient for a logit is lambda a (1 - a), and for the bias of a block's gate the sum over 16
    tokens: 0.1 x 16 x 0.8808 x 0.1192 = 0.168.
    """
    settings = {"price": "sum", "budget": None, "cost_weight": 0.1}
    model = make_flat(tiny_image, estimator="straight_through", **settings).train()
    price = model(tiny_image.batch(3)).aux_loss
    assert price.item() == pytest.approx(0.1 * 64 * A)
    price.backward()
    for gate in model.gates.values():
        assert gate[2].bias.grad.item() == pytest.approx(0.1 * 16 * A * (1 - A))


def test_the_sum_is_an_alias_of_the_share(tiny_image) -> None:
    """With equal blocks, lambda sum a = (64 lambda) share."""
    batch, prices = tiny_image.batch(3), []
    for price, weight in (("sum", 0.01), ("share", 0.64)):
        torch.manual_seed(0)
        model = make_model(tiny_image, 0.0, budget=None, cost_weight=weight, price=price).train()
        torch.manual_seed(1)  # of the gates' noise
        prices.append(model(batch).aux_loss)
    torch.testing.assert_close(prices[0], prices[1])


def test_padding_costs_nothing(tiny_labels) -> None:
    """The share is one of real tokens: with a = 0.8808 everywhere it is that, padded or not."""
    model = make_flat(tiny_labels, budget=None, cost_weight=1.0).train()
    assert model(tiny_labels.batch(5)).aux_loss.item() == pytest.approx(A)


@pytest.mark.parametrize("estimator", ["soft", "straight_through", "gumbel", "masked"])
@pytest.mark.parametrize("per", ["token", "sample"])
def test_the_price_closes_gates(tiny_image, estimator: str, per: str) -> None:
    """The penalty's gradient lowers every gate's logit."""
    settings = {"estimator": estimator, "per": per, "budget": None, "cost_weight": 1.0}
    model = make_model(tiny_image, **settings).train()
    model(tiny_image.batch(8)).aux_loss.backward()
    assert all(gate[2].bias.grad.item() > 0 for gate in model.gates.values())


def test_the_budget_error_by_hand(tiny_image) -> None:
    """A budget of 0.3: two of four blocks run for all tokens, 0.5 - 0.3 = 0.2; all of them, 0.7."""
    model, batch = make_model(tiny_image, budget=0.3), tiny_image.batch(2)

    def run_even(decision: routing.Decision) -> torch.Tensor:
        return torch.full_like(decision.run, decision.name in ("block0", "block2"))

    with routing.override(run_even):
        assert model(batch).stats["budget_error"].item() == pytest.approx(0.2)
    with routing.force("open"):
        assert model(batch).stats["budget_error"].item() == pytest.approx(0.7)
        Allocation().set_point(model, {"threshold": 0.9})  # not what the budget was trained for
        assert "budget_error" not in model(batch).stats
    assert model(batch).stats == {}  # nothing reads it


def test_a_budget_raises_the_price_until_it_is_met(tiny_image) -> None:
    """Gates open at first spend more than the budget: the multiplier grows, in training only.

    The mean share begins at 0.3 and moves a tenth of the way to 0.8808, to 0.3581; the price grows
    by 0.02 (0.3581 - 0.3).
    """
    model = make_flat(tiny_image, budget=0.3)
    model(tiny_image.batch(8))
    assert model.budget.weight == 0
    model.train()(tiny_image.batch(8))
    assert model.budget.weight.item() == pytest.approx(0.02 * 0.1 * (A - 0.3))


def test_reward_by_hand(tiny_labels) -> None:
    """-(loss + lambda x share): 6 of 12 places of 3 real tokens run, and none of 2 tokens' 8."""
    settings = {"budget": None, "cost_weight": 0.4, "estimator": "reinforce"}
    model, batch = make_model(tiny_labels, **settings), tiny_labels.batch(2)
    eligible = torch.zeros(2, 64, dtype=torch.bool)
    eligible[0, [0, 1, 2, 16, 17, 18, 32, 33, 34, 48, 49, 50]] = True
    eligible[1, [0, 1, 16, 17, 32, 33, 48, 49]] = True
    run = torch.zeros_like(eligible)
    run[0, [0, 1, 2, 16, 17, 18]] = True
    logits = torch.randn(2, 5)
    output = Output(logits, stats={"run": run, "eligible": eligible})
    losses = F.cross_entropy(logits, batch.targets, reduction="none")
    reward = model.reward(output, batch, tiny_labels.criterion)
    torch.testing.assert_close(reward, -(losses + 0.4 * torch.tensor([0.5, 0.0])))


def test_greedy_decisions_teach_nothing(tiny_text) -> None:
    """Where the sample equals the greedy decision the advantage is 0, and so is the gradient."""
    settings = {"estimator": "reinforce", "budget": None}
    model, batch = make_model(tiny_text, 0.0, **settings), tiny_text.batch(8)
    with routing.observe() as seen:
        model(batch)
    twice = routing.Observation(seen.decisions * 2)  # the sampled pass and the greedy one
    with routing.replay(twice):
        Allocation(**settings).loss(model.train(), batch, tiny_text.criterion, 0.5).backward()
    gradients = [p.grad for gate in model.gates.values() for p in gate.parameters()]
    assert all(gradient.abs().max() < 1e-5 for gradient in gradients)


def test_samples_of_a_convolutional_network() -> None:
    """Of a ResNet-20's nine blocks the two that halve the maps have no gate."""
    model = Allocation(per="sample").build(IMAGE, ResNet())
    assert sorted(model.gates) == ["0", "1", "2", "4", "5", "7", "8"]


def test_what_cannot_be_allocated_is_unsupported(tiny_text) -> None:
    """Maps have no tokens, a text has no label, and all of MSDNet's blocks change the state."""
    with pytest.raises(Unsupported, match="allocation_samples"):
        Allocation().build(IMAGE, ResNet())
    with pytest.raises(Unsupported, match="causal"):
        Allocation(per="sample").build(tiny_text.spec, tiny_text.backbone)
    with pytest.raises(Unsupported, match="shape"):
        Allocation(per="sample").build(IMAGE, MSDNet())


def test_a_literal_sum_has_no_budget() -> None:
    """A budget is a share: with price=sum it raises ValueError with the way out."""
    with pytest.raises(ValueError, match="budget=null"):
        Allocation(price="sum")


def test_a_higher_threshold_runs_fewer_blocks(tiny_text) -> None:
    """Gates start at 0.88: below it all run, above it none; 1/2 is the default."""
    method, model = Allocation(), make_flat(tiny_text)
    shares = {}
    for point in method.points():
        method.set_point(model, point)
        with routing.observe():
            stats = model(tiny_text.batch(2)).stats
        shares[point["threshold"]] = stats["run"].float().mean().item()
    assert method.points()[0] == {"threshold": 0.5}
    assert [shares[t] for t in (0.01, 0.5, 0.8, 0.9, 0.95)] == [1.0, 1.0, 1.0, 0.0, 0.0]


def test_a_token_next_to_closed_ones_sees_itself_alone(tiny_text) -> None:
    """A sample of which one token runs gives it what that token alone would get."""
    model = make_model(tiny_text)
    block, state = model.trunk.blocks[1], model.trunk.stem(tiny_text.batch(1))
    run = torch.zeros(1, 16, dtype=torch.bool)
    run[0, 7] = True
    new = model.elements.run_chosen(block, state, run).x
    alone = block(state.take(torch.tensor([[7]]))).x
    torch.testing.assert_close(new[:, 7:8], alone)
    assert torch.equal(new[~run], state.x[~run])


def test_converting_leaves_the_dense_model_alone(tiny_image) -> None:
    """The gates are put on a copy."""
    dense = tiny_image.backbone.build(tiny_image.spec)
    before = deepcopy(dense.state_dict())
    model = Allocation().convert(dense, [])
    torch.nn.init.zeros_(model.trunk.blocks[0].ffn.up.weight)
    assert all(map(torch.equal, dense.state_dict().values(), before.values()))
