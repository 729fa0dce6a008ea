"""measure.force_share: a model whose gates run a stated share in every call, and the note on it."""

from __future__ import annotations

import pickle

import pytest
import torch
from torch import nn

from bench import routing
from bench.check import tiny_tasks
from bench.measure.stated_share import force_share
from bench.meters.flops.counter import count_samples
from bench.plugins.hooks import resolve
from bench.routing import StatedExperts
from bench.types import Batch
from methods.backbone.resnet import ResNet
from methods.backbone.transformer import Transformer
from methods.branches.branches import Branches
from methods.controls.dense import Dense
from methods.controls.random_skip import RandomSkip
from methods.experts.moe import MoE
from methods.experts.moe_vision import MoEVision
from methods.skipping.early_exit import EarlyExit
from methods.skipping.mixture_of_depths import MixtureOfDepths
from methods.skipping.skip_blocks import SkipBlocks
from methods.skipping.skip_blocks_policy import SkipBlocksPolicy
from methods.sparsity.topk_ffn import TopkFFN
from methods.tokens.evit import EViT
from methods.tokens.tome import ToMe

IMAGES = tiny_tasks.TINY["image"]
TRANSFORMER = tiny_tasks.shrink(Transformer)
# The share of all decisions that run. Of samples that reach an exit half continue, and branches
# run one of three.
SHARES = [
    *((SkipBlocks(), 0.5), (SkipBlocksPolicy(), 0.5), (MixtureOfDepths(), 0.5), (MoE(), 0.5)),
    *((MoEVision(), 0.5), (TopkFFN(), 0.5), (EarlyExit(), 0.5), (Branches(), 1 / 3)),
]


def build(method, backbone=TRANSFORMER) -> nn.Module:
    """The method's untrained model."""
    torch.manual_seed(0)
    hooks = resolve(method).hooks
    if hooks.convert is None:
        return hooks.build(IMAGES.spec, backbone).eval()
    return hooks.convert(backbone.build(IMAGES.spec), []).eval()


def one_by_one(batch: Batch) -> list[Batch]:
    return [batch.select(row) for row in torch.arange(len(batch))[:, None]]


@pytest.mark.parametrize(("method", "share"), SHARES, ids=lambda each: type(each).__name__)
def test_the_gates_run_the_share(method, share: float) -> None:
    """At one half, of every method's decisions about 32 inputs."""
    model, batch = build(method), IMAGES.batch(32)
    forced = force_share(model, 0.5, batch)
    with torch.no_grad(), routing.observe() as seen:
        model(batch)
    ran = sum(int(d.run.sum()) for d in seen.decisions)
    assert ran / sum(d.run.numel() for d in seen.decisions) == pytest.approx(share, abs=0.05)
    assert forced.any
    assert "measure.force_share=0.5" in forced.note


@pytest.mark.parametrize("method", [SkipBlocks(), SkipBlocksPolicy()], ids=["gates", "policy"])
@pytest.mark.parametrize("backbone", [TRANSFORMER, ResNet([2, 2], [8, 16])], ids=["vit", "resnet"])
def test_half_the_gates_are_half_the_flops(method, backbone) -> None:
    """Executed FLOPs of eight inputs, alone and together, are midway between closed and open."""
    model, batch = build(method, backbone), IMAGES.batch(8)
    force_share(model, 0.5, batch)

    def flops(how: routing.Force) -> int:
        with routing.force(how):
            return count_samples(model, [batch]).total

    with torch.no_grad():
        middle = (flops("open") + flops("closed")) / 2
        costs = set(model.costs.values())
        assert len(costs) == 1 or isinstance(backbone, ResNet)
        for batches in ([batch], one_by_one(batch)):
            assert count_samples(model, batches).total == pytest.approx(middle, rel=1e-12)


def test_an_input_alone_decides_as_in_its_batch() -> None:
    """Logits are equal, also in another order; inputs that were not numbered have some as well."""
    model, batch = build(EarlyExit()), IMAGES.batch(16)
    force_share(model, 0.5, batch)
    with torch.no_grad():
        together = model(batch).logits
        alone = torch.cat([model(each).logits for each in one_by_one(batch)])
        torch.testing.assert_close(together, alone)
        order = torch.randperm(16)
        torch.testing.assert_close(model(batch.select(order)).logits, together[order])
        assert model(IMAGES.batch(5, seed=9)).logits.isfinite().all()


def test_it_travels_into_another_process() -> None:
    """A pickled model decides alike, and the weights are stored as before."""
    model, batch = build(MixtureOfDepths()), IMAGES.batch(4)
    keys = model.state_dict().keys()
    force_share(model, 0.3, batch)
    copy = pickle.loads(pickle.dumps(model))
    with torch.no_grad():
        assert torch.equal(copy(batch).logits, model(batch).logits)
    assert model.state_dict().keys() == keys


def test_a_control_that_shuffles_leaves_them() -> None:
    """Random decisions at the own budget would undo the share: the control's hooks stand back."""
    model, batch = build(RandomSkip(of="moe")), IMAGES.batch(4)
    force_share(model, 0.125, batch)
    with torch.no_grad(), routing.observe() as seen:
        model(batch)
    assert all((d.run.sum(-1) == 1).all() for d in seen.decisions)  # 0.125 x 8 experts


def test_a_failing_pass_leaves_nothing_behind() -> None:
    """After an error inside the model gates decide by themselves again."""
    model, batch = build(SkipBlocks()), IMAGES.batch(4)
    force_share(model, 0.5, batch)
    with pytest.raises(RuntimeError):  # two channels, where the stem has one
        model(Batch(batch.inputs.repeat(1, 2, 1, 1), batch.targets))
    assert not routing.is_forced()


@pytest.mark.parametrize("method", [Dense(), ToMe(), EViT()], ids=lambda each: type(each).__name__)
def test_nothing_to_force_is_said(method) -> None:
    """A model without a gate, or with a schedule of tokens, stays as it is; the note says why."""
    model, batch = build(method), IMAGES.batch(2)
    with torch.no_grad():
        before = model(batch).logits
        forced = force_share(model, 0.5, batch)
        assert torch.equal(model(batch).logits, before)
    assert not forced.any
    assert forced.note == (
        "measure.force_share=0.5 forces nothing: the settings of the method fix how much runs, "
        "no gate decides it"
    )


@pytest.mark.parametrize("kind", ["balanced", "zipf", "hot"])
def test_a_stated_routing_changes_experts_and_no_flops(kind: routing.Routing) -> None:
    """Executed FLOPs of a mixture are those of its own routing; all gates obey."""
    batch = IMAGES.batch(8)
    own = count_samples(build(MoE()), [batch]).total
    model = build(MoE())
    forced = force_share(model, None, batch, StatedExperts(kind, 8))
    assert forced == (
        f"measure.routing={kind}: as many experts as the gates choose, but stated ones",
        True,
    )
    assert count_samples(model, [batch]).total == pytest.approx(own, rel=0.01)
    with torch.no_grad(), routing.observe() as seen:
        model(batch)
    loads = [d.run.flatten(0, 1).sum(0) for d in seen.decisions]
    for load in loads:
        # 8 samples x 16 tokens x 2 of 8 experts: 32 each, or 128 for two of them.
        assert kind != "balanced" or load.tolist() == [32] * 8
        assert kind != "hot" or sorted(load.tolist()) == [0] * 6 + [128] * 2


def test_a_model_without_experts_keeps_no_hooks() -> None:
    """A stated routing changes nothing there, and would take time in every pass."""
    model = build(MixtureOfDepths())
    forced = force_share(model, None, IMAGES.batch(4), StatedExperts("balanced", 4))
    assert forced == ("measure.routing=balanced changes nothing: no gate routes to experts", False)
    assert not model._forward_pre_hooks
    assert not model._forward_hooks


def test_an_experts_own_number_of_choices_is_that_of_the_share() -> None:
    """At one half four of eight experts, balanced: 8 x 16 x 4 / 8 = 64 each."""
    model, batch = build(MoE()), IMAGES.batch(8)
    forced = force_share(model, 0.5, batch, StatedExperts("balanced", 8))
    assert forced.note.count("; ") == 1
    with torch.no_grad(), routing.observe() as seen:
        model(batch)
    assert seen.decisions[0].run.flatten(0, 1).sum(0).tolist() == [64] * 8
