"""Dynamic skipping: a gate per sample before every residual block."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F

from bench import routing
from bench.check import CONTRACTS, candidates
from bench.check.attempt import attempt
from bench.meters.flops.counter import count
from bench.plugins import construct
from bench.types import Output, TaskSpec, Unsupported
from methods.backbone.msdnet import MSDNet
from methods.backbone.resnet import ResNet
from methods.skipping.skip_blocks import SkipBlocks, SkipModel

IMAGE = TaskSpec("i", "image", (1, 8, 8), 5)


def make_gated(tiny, bias: float | None = None, **settings) -> SkipModel:
    """The tiny transformer with gates that begin at `bias`, in inference mode."""
    model = SkipBlocks(**settings).build(tiny.spec, tiny.backbone).eval()
    for each in model.gates.values() if bias is not None else ():
        torch.nn.init.constant_(each[2].bias, bias)
        torch.nn.init.normal_(each[0].weight, std=3.0)  # samples differ
    return model


def test_some_samples_skip_and_their_state_stays(tiny_image) -> None:
    """A block runs for exactly the samples whose gate is open: its calls bring their number."""
    model, batch = make_gated(tiny_image, bias=0.0), tiny_image.batch(16)
    brought: list[int] = []
    for block in model.trunk.blocks:
        block.register_forward_hook(lambda _, args, out: brought.append(len(args[0].x)))
    with routing.observe() as seen:
        model(batch)
    assert [d.name for d in seen.decisions] == [f"block{i}" for i in range(4)]
    assert [n for d in seen.decisions if (n := int(d.run.sum()))] == brought
    assert 0 < sum(brought) < 4 * 16


def test_a_blocks_cost_is_what_it_executes(tiny_image) -> None:
    """16 tokens of width 16 with H = 32: 16 (8 D^2 + 4 D H) + 4 T^2 D = 81,920 FLOPs per block."""
    model = make_gated(tiny_image)
    assert set(model.costs.values()) == {16 * (8 * 16**2 + 4 * 16 * 32) + 4 * 16**2 * 16}
    with routing.force("open"):
        opened = count(model, tiny_image.batch(3)).total
    with routing.force("closed"):
        closed = count(model, tiny_image.batch(3)).total
    assert opened - closed == 3 * sum(model.costs.values())


def test_blocks_that_change_the_shape_always_run() -> None:
    """Of a ResNet-20's nine blocks the two that halve the maps have no gate."""
    model = SkipBlocks().build(IMAGE, ResNet())
    assert sorted(model.costs) == [0, 1, 2, 4, 5, 7, 8]


def test_what_cannot_be_skipped_is_unsupported(tiny_text, tiny_pairs) -> None:
    """Gates of text and pairs would read later tokens; all of MSDNet's blocks change the state."""
    for tiny in (tiny_text, tiny_pairs):
        with pytest.raises(Unsupported, match="causal"):
            SkipBlocks().build(tiny.spec, tiny.backbone)
    with pytest.raises(Unsupported, match="shape"):
        SkipBlocks().build(IMAGE, MSDNet())


def test_an_unknown_estimator_is_refused() -> None:
    """A misspelt estimator raises ValueError, and the message names the choices."""
    with pytest.raises(ValueError, match="reinforce"):
        construct(SkipBlocks, {"estimator": "hardest"})


def test_padding_moves_no_gate(tiny_labels) -> None:
    """A gate reads the mean of real tokens only."""
    model, batch = make_gated(tiny_labels, bias=0.0), tiny_labels.batch(6)
    inputs = torch.where(batch.mask, batch.inputs, 1)
    same = batch.map(torch.clone)
    same.inputs.copy_(inputs)
    torch.testing.assert_close(model(batch).stats["logits"], model(same).stats["logits"])


@pytest.mark.parametrize("estimator", ["soft", "straight_through", "gumbel", "masked"])
def test_the_price_closes_gates(tiny_image, estimator: str) -> None:
    """The penalty's gradient lowers every gate's logit."""
    model = make_gated(tiny_image, estimator=estimator, budget=None, cost_weight=1.0).train()
    model(tiny_image.batch(8)).aux_loss.backward()
    for each in model.gates.values():
        assert each[2].bias.grad.item() > 0  # descent lowers it


def test_a_budget_raises_the_price_until_it_is_met(tiny_image) -> None:
    """Gates open at first spend more than the budget: the multiplier grows, in training only."""
    model = make_gated(tiny_image, budget=0.3)
    model(tiny_image.batch(8))
    assert model.budget.weight == 0
    model.train()(tiny_image.batch(8))
    assert model.budget.weight > 0


def test_reward_by_hand(tiny_image) -> None:
    """-(cross-entropy + weight x share of the gated FLOPs): four equal blocks, two of them run."""
    model, batch = make_gated(tiny_image, budget=None, cost_weight=0.4), tiny_image.batch(2)
    run = torch.tensor([[True, True, False, False], [False, False, False, False]])
    logits = torch.randn(2, 5)
    reward = model.reward(Output(logits, stats={"run": run}), batch, tiny_image.criterion)
    losses = F.cross_entropy(logits, batch.targets, reduction="none")
    torch.testing.assert_close(reward, -(losses + 0.4 * torch.tensor([0.5, 0.0])))


def test_reinforce_learns_to_skip_what_is_priced(tiny_image) -> None:
    """With a price far above the loss, sampled skips beat greedy ones and gates close."""
    method = SkipBlocks(estimator="reinforce", budget=None, cost_weight=100.0)
    model = method.build(tiny_image.spec, tiny_image.backbone).train()
    optimizer = torch.optim.SGD([p for g in model.gates.values() for p in g.parameters()], lr=0.01)
    before = model.eval()(tiny_image.batch(8)).stats["logits"].mean()
    for step in range(20):
        optimizer.zero_grad()
        loss = method.loss(model.train(), tiny_image.batch(8, step), tiny_image.criterion, 0.5)
        loss.backward()
        optimizer.step()
    assert model.eval()(tiny_image.batch(8)).stats["logits"].mean() < before - 0.5


def test_greedy_decisions_teach_nothing(tiny_image) -> None:
    """Where the sample equals the greedy decision the advantage is 0, and so is the gradient."""
    method = SkipBlocks(estimator="reinforce", budget=None)
    model = make_gated(tiny_image, 0.0, estimator="reinforce", budget=None)
    batch = tiny_image.batch(8)
    with routing.observe() as seen:
        model(batch)
    twice = routing.Observation(seen.decisions * 2)  # the sampled pass and the greedy one
    with routing.replay(twice):
        method.loss(model.train(), batch, tiny_image.criterion, 0.5).backward()
    gradients = [p.grad for g in model.gates.values() for p in g.parameters()]
    assert all(gradient.abs().max() < 1e-6 for gradient in gradients)


def test_the_soft_estimator_breaks_what_it_must() -> None:
    """It trains closed blocks and mixtures that inference does not run, and the kit reports it."""
    found, _ = candidates("skip_blocks", SkipBlocks(estimator="soft"))
    findings = [attempt(contract, found[0]) for contract in CONTRACTS]
    broken = [finding.contract for finding in findings if finding.outcome == "broken"]
    assert broken == ["skipping_is_masking", "skipped_learn_nothing"]


def test_converting_leaves_the_dense_model_alone(tiny_image) -> None:
    """The gates are put on a copy."""
    dense = tiny_image.backbone.build(tiny_image.spec)
    before = deepcopy(dense.state_dict())
    model = SkipBlocks().convert(dense, [])
    torch.nn.init.zeros_(model.trunk.blocks[0].ffn.up.weight)
    assert all(map(torch.equal, dense.state_dict().values(), before.values()))


def test_a_higher_threshold_runs_fewer_blocks(tiny_image) -> None:
    """Gates start at 0.88 (a logit of 2): below it all run, above it none; 1/2 is the default."""
    method = SkipBlocks()
    model = method.build(tiny_image.spec, tiny_image.backbone).eval()
    shares = {}
    for point in method.points():
        method.set_point(model, point)
        shares[point["threshold"]] = model(tiny_image.batch(8)).stats["run"].float().mean().item()
    assert method.points()[0] == {"threshold": 0.5}
    assert shares[0.01] == shares[0.5] == 1.0
    assert shares[0.95] < 0.5
    assert [shares[t] for t in sorted(shares)] == sorted(shares.values(), reverse=True)
