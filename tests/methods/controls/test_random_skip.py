"""The control for routers: the same budget on elements drawn at random."""

from __future__ import annotations

import copy

import pytest
import torch

from bench import routing
from bench.meters.flops.counter import count
from bench.plugins.hooks import Hooks, resolve
from methods.controls.random_skip import RandomSkip, Shuffle
from methods.experts.moe import MoE


def hooks_of(name: str) -> Hooks:
    """The work that the control of a method executes."""
    return resolve(RandomSkip(name)).hooks


def observe_call(model, batch) -> tuple[torch.Tensor, routing.Observation]:
    """Logits and decisions of one call."""
    with torch.no_grad(), routing.observe() as seen:
        logits = model(batch).logits
    return logits, seen


def decide_about_tokens(run: torch.Tensor) -> torch.Tensor:
    """The decision that a gate on tokens gets whose own one is `run` [B, T]."""
    return routing.decide("gate", axes=routing.TOKENS, probabilities=run.float(), run=run, cost=1.0)


@pytest.mark.parametrize("training", [False, True])
def test_same_budget_other_decisions(tiny, training: bool) -> None:
    """Every token keeps its number of experts, but they are no longer the router's choice."""
    model = hooks_of("moe").build(tiny.spec, tiny.backbone).train(training)
    _, seen = observe_call(model, tiny.batch(4))
    shuffled = False
    for decision in seen.decisions:
        assert (decision.run.sum(-1) == 2).all()
        best = decision.probabilities.topk(2).indices
        shuffled |= not decision.run.gather(-1, best).all().item()
    assert shuffled


def test_executed_flops_are_those_of_the_other_method(tiny) -> None:
    """The control executes exactly as many FLOPs as the method that it controls."""
    control = hooks_of("moe").build(tiny.spec, tiny.backbone).eval()
    routed = MoE().build(tiny.spec, tiny.backbone).eval()
    batch = tiny.batch(4)
    assert count(control, batch).total == count(routed, batch).total


def test_inference_repeats_itself_and_training_does_not(tiny) -> None:
    """Inference draws the same numbers in every call, training new ones."""
    model = hooks_of("moe").build(tiny.spec, tiny.backbone).eval()
    batch = tiny.batch(4)
    assert torch.equal(observe_call(model, batch)[0], observe_call(model, batch)[0])
    model.train()
    assert not torch.equal(observe_call(model, batch)[0], observe_call(model, batch)[0])


@pytest.mark.parametrize("training", [False, True])
def test_branches_of_a_layer_move_together(tiny, training: bool) -> None:
    """Every sample (every token of a causal model) keeps exactly one branch per layer."""
    model = hooks_of("branches").build(tiny.spec, tiny.backbone).train(training)
    _, seen = observe_call(model, tiny.batch(6))
    counts = [decision.run.sum(-1) for decision in seen.decisions]
    assert len(counts) == 4
    assert all((count == 1).all() for count in counts)


def test_branches_are_shuffled_among_samples(tiny_image) -> None:
    """As many samples take each branch as the gate chose, but not the same ones."""
    model = hooks_of("branches").build(tiny_image.spec, tiny_image.backbone).eval()
    torch.nn.init.normal_(model.blocks[0].ffn.gate.weight, std=9.0)  # a gate of many minds
    _, seen = observe_call(model, tiny_image.batch(64))
    (first,) = seen.named("branches.0")
    expected, taken = first.probabilities.argmax(-1), first.run.int().argmax(-1)
    assert torch.equal(expected.bincount(minlength=3), taken.bincount(minlength=3))
    assert not torch.equal(expected, taken)


def test_a_causal_token_takes_over_an_earlier_decision(tiny_text) -> None:
    """Stretches of 2 of 16 tokens: where the gate opens from position 8 on, 10 to 15 run."""
    shuffle = Shuffle(seed=0, causal=True)
    run = (torch.arange(16) >= 8).expand(6, 16)
    with shuffle.context(tiny_text.batch(6), training=False):
        taken = routing.decide(
            "gate", axes=routing.TOKENS, probabilities=run.float(), run=run, cost=1.0
        )
    assert torch.equal(taken, (torch.arange(16) >= 10).expand(6, 16))


def test_a_causal_sample_keeps_its_budget_stretch_by_stretch(tiny_text) -> None:
    """As many tokens of a stretch run as the gate chose one stretch before, but others."""
    shuffle, run = Shuffle(seed=0, causal=True), torch.rand(6, 128) < 0.3
    with shuffle.context(tiny_text.batch(6), training=False):
        taken = routing.decide(
            "gate", axes=routing.TOKENS, probabilities=run.float(), run=run, cost=1.0
        )
    expected, got = (each.unflatten(1, (16, 8)) for each in (run, taken))
    assert torch.equal(got[:, 1:].sum(2), expected[:, :-1].sum(2))
    assert not torch.equal(got[:, 1:], expected[:, :-1])


def test_padding_is_not_drawn(tiny_labels) -> None:
    """Tokens are shuffled among a sample's real ones, as many as the gate chose."""
    shuffle, batch = Shuffle(seed=0, causal=False), tiny_labels.batch(6)
    run = batch.mask & (torch.arange(16) < 3)  # lengths are 4 at least: three of each sample
    with shuffle.context(batch, training=False):
        taken = routing.decide(
            "gate", axes=routing.TOKENS, probabilities=run.float(), run=run, cost=1.0
        )
    assert (taken.sum(1) == 3).all()
    assert not (taken & ~batch.mask).any()
    assert not torch.equal(taken, run)


@pytest.mark.parametrize("of", ["evit", "tome", "dynamic_vit"])
def test_tokens_that_have_left_are_not_drawn(of: str, tiny_image) -> None:
    """A reduction keeps as many tokens in every block as its own rule does, but others."""
    hooks = hooks_of(of)
    control = hooks.convert(tiny_image.backbone.build(tiny_image.spec), []).eval()
    plain = resolve(RandomSkip(of).inner).hooks.convert(
        tiny_image.backbone.build(tiny_image.spec), []
    )
    plain.load_state_dict(control.state_dict())
    _, drawn = observe_call(control, tiny_image.batch(6))
    _, chosen = observe_call(plain.eval(), tiny_image.batch(6))
    counts = [[d.run.sum(1).tolist() for d in seen.decisions] for seen in (drawn, chosen)]
    assert counts[0] == counts[1]
    assert not torch.equal(drawn.decisions[0].run, chosen.decisions[0].run)


def test_the_harness_has_the_last_word(tiny) -> None:
    """Replayed and forced decisions are obeyed instead of random ones."""
    model = hooks_of("moe").build(tiny.spec, tiny.backbone).eval()
    batch = tiny.batch(4)
    expected, seen = observe_call(model, batch)
    with routing.replay(seen):
        replayed, again = observe_call(model.train(), batch)
    torch.testing.assert_close(replayed, expected)
    for one, two in zip(seen.decisions, again.decisions, strict=True):
        assert torch.equal(one.run, two.run)
    assert not routing.is_forced()


def test_nothing_stays_forced_after_a_failure(tiny) -> None:
    """A forward pass that raises leaves no random routing behind; a copy works by itself."""
    model = hooks_of("moe").build(tiny.spec, tiny.backbone).eval()
    with pytest.raises(AttributeError):
        model(None)
    assert not routing.is_forced()
    batch = tiny.batch(2)
    assert torch.equal(observe_call(copy.deepcopy(model), batch)[0], observe_call(model, batch)[0])


def test_hooks_are_the_other_methods(tiny) -> None:
    """convert, points and the rest come from the method named, and only if it has them."""
    control = hooks_of("topk_ffn")
    assert control.points()[0] == {"k": 2}
    assert resolve(RandomSkip("topk_ffn")).flags.train_share == 0.3
    model = control.convert(tiny.backbone.build(tiny.spec), []).eval()
    control.set_point(model, {"k": 1})
    _, seen = observe_call(model, tiny.batch(2))
    assert all((d.run.sum(-1) == 1).all() for d in seen.decisions)
    assert hooks_of("moe").convert is None


@pytest.mark.parametrize("name", ["nothing_like_it", "random_skip"])
def test_only_another_method_can_be_shuffled(name: str) -> None:
    """An unknown method and the control itself are refused."""
    with pytest.raises(ValueError, match="no other method"):
        RandomSkip(name)
