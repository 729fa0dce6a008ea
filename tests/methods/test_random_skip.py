"""The control for routers: the same budget on elements drawn at random."""

from __future__ import annotations

import copy

import pytest
import torch

from bench import routing
from bench.meters.flops import count
from methods.moe import MoE
from methods.random_skip import RandomSkip


def observed(model, batch) -> tuple[torch.Tensor, routing.Observation]:
    """Logits and decisions of one call."""
    with torch.no_grad(), routing.observe() as seen:
        logits = model(batch).logits
    return logits, seen


@pytest.mark.parametrize("training", [False, True])
def test_same_budget_other_decisions(tiny, training: bool) -> None:
    """Every token keeps its number of experts, but they are no longer the router's choice."""
    model = RandomSkip("moe").build(tiny.spec, tiny.backbone).train(training)
    _, seen = observed(model, tiny.batch(4))
    shuffled = False
    for decision in seen.decisions:
        assert (decision.run.sum(-1) == 2).all()
        best = decision.probabilities.topk(2).indices
        shuffled |= not decision.run.gather(-1, best).all().item()
    assert shuffled


def test_executed_flops_are_those_of_the_other_method(tiny) -> None:
    """The control executes exactly as many FLOPs as the method that it stands beside."""
    control = RandomSkip("moe").build(tiny.spec, tiny.backbone).eval()
    routed = MoE().build(tiny.spec, tiny.backbone).eval()
    batch = tiny.batch(4)
    assert count(control, batch).total == count(routed, batch).total


def test_inference_repeats_itself_and_training_does_not(tiny) -> None:
    """Inference draws the same numbers in every call, training new ones."""
    model = RandomSkip("moe").build(tiny.spec, tiny.backbone).eval()
    batch = tiny.batch(4)
    assert torch.equal(observed(model, batch)[0], observed(model, batch)[0])
    model.train()
    assert not torch.equal(observed(model, batch)[0], observed(model, batch)[0])


def test_the_harness_has_the_last_word(tiny) -> None:
    """Replayed and forced decisions are obeyed instead of random ones."""
    model = RandomSkip("moe").build(tiny.spec, tiny.backbone).eval()
    batch = tiny.batch(4)
    wanted, seen = observed(model, batch)
    with routing.replay(seen):
        replayed, again = observed(model.train(), batch)
    torch.testing.assert_close(replayed, wanted)
    for one, two in zip(seen.decisions, again.decisions, strict=True):
        assert torch.equal(one.run, two.run)
    assert not routing.is_forced()


def test_nothing_stays_forced_after_a_failure(tiny) -> None:
    """A forward pass that raises leaves no random routing behind; a copy works by itself."""
    model = RandomSkip("moe").build(tiny.spec, tiny.backbone).eval()
    with pytest.raises(AttributeError):
        model(None)
    assert not routing.is_forced()
    batch = tiny.batch(2)
    assert torch.equal(observed(copy.deepcopy(model), batch)[0], observed(model, batch)[0])


def test_hooks_are_the_other_methods(tiny) -> None:
    """convert, points and the rest come from the method named, and only if it has them."""
    control = RandomSkip("topk_ffn")
    assert control.points()[0] == {"k": 2}
    assert control.train_share == 0.3
    model = control.convert(tiny.backbone.build(tiny.spec), []).eval()
    control.set_point(model, {"k": 1})
    _, seen = observed(model, tiny.batch(2))
    assert all((d.run.sum(-1) == 1).all() for d in seen.decisions)
    assert not hasattr(RandomSkip("moe"), "convert")


@pytest.mark.parametrize("name", ["nothing_like_it", "random_skip"])
def test_only_another_method_can_be_shuffled(name: str) -> None:
    """An unknown method and the control itself are refused."""
    with pytest.raises(ValueError, match="no other method"):
        RandomSkip(name)
