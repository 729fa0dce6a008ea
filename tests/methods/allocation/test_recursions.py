"""Mixture-of-Recursions: which tokens run a recursion, and what it gives them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from bench import routing
from bench.types import TaskSpec, Unsupported
from methods.allocation.recursions import Recursions, RecursiveTrunk
from methods.backbone.resnet import ResNet


def make_model(tiny, **settings) -> RecursiveTrunk:
    """The tiny transformer with recursions and routers that differ, in inference mode."""
    model = Recursions(**settings).build(tiny.spec, tiny.backbone).eval()
    torch.nn.init.normal_(model.router.weight, std=1.0)
    return model


@pytest.mark.parametrize("router", ["expert", "token"])
def test_without_routing_the_group_is_repeated(tiny_image, router: str) -> None:
    """A router of zeros scales by 1: first block, the group three times, last block.

    With token choice the deepest logit is raised by as little as decides, so that R p = 1 still.
    """
    model = make_model(tiny_image, router=router, num_recursions=3)
    model.router.weight.data.zero_()
    first, shared, last = model.trunk.blocks
    state = first(model.trunk.stem(tiny_image.batch(2)))
    for _ in range(3):
        state = shared(state)
    expected = model.trunk.head(last(state))
    with routing.force("open"):
        torch.testing.assert_close(model(tiny_image.batch(2)).logits, expected)


def test_expert_choice_takes_shares_of_all_tokens(tiny_image) -> None:
    """16 tokens and R = 4: 16, 12, 8 and 4 run, the highest scores among those that are left."""
    model = make_model(tiny_image)
    routed = model(tiny_image.batch(3)).stats["routed"]
    assert [run.sum(1).tolist() for run in routed.run] == [[n] * 3 for n in (16, 12, 8, 4)]
    for score, live, run in list(zip(*routed[:3], strict=True))[1:]:
        assert not (run & ~live).any()
        lowest = score.masked_fill(~run, torch.inf).amin(1)
        assert (lowest >= score.masked_fill(run | ~live, -torch.inf).amax(1)).all()


def test_what_leaves_stays_as_it_is(tiny_image) -> None:
    """A token's state after the recursions is that after the last one that it ran."""
    model, states = make_model(tiny_image), []
    model.trunk.blocks[-1].register_forward_pre_hook(lambda _, args: states.append(args[0].x))
    recur, seen = model._recur, []

    def watched(number, state, run, cache):
        seen.append((state.x, run))
        return recur(number, state, run, cache)

    model._recur = watched
    model(tiny_image.batch(2))
    before, run = seen[-1]
    assert torch.equal(states[0][~run], before[~run])
    assert (states[0][run] != before[run]).any(-1).all()


def test_token_choice_runs_the_chosen_depth(tiny_text) -> None:
    """argmax p + 1 recursions, of all tokens from 1 to R."""
    model, batch = make_model(tiny_text, router="token"), tiny_text.batch(6)
    routed = model(batch).stats["routed"]
    count = torch.stack(routed.run).sum(0)
    assert torch.equal(count, routed.depths.argmax(-1) + 1)
    assert len(count.unique()) > 1


def test_token_choice_weighs_by_its_depth(tiny_image) -> None:
    """Forced to one recursion, a token has x0 + R p_0 (f(x0) - x0) before the last block."""
    model, found = make_model(tiny_image, router="token", num_recursions=2), []
    model.trunk.blocks[-1].register_forward_pre_hook(lambda _, args: found.append(args[0].x))
    state = model.trunk.blocks[0](model.trunk.stem(tiny_image.batch(2)))
    once = model.trunk.blocks[1](state).x
    share = model.router(state.x).softmax(-1)[..., :1]
    with routing.force("closed"):
        model(tiny_image.batch(2))
    torch.testing.assert_close(found[0], state.x + 2 * share * (once - state.x))


def test_a_point_limits_the_recursions(tiny_text) -> None:
    """At most so many run, on any token."""
    method, model = Recursions(), make_model(tiny_text)
    assert method.points() == [{"recursions": n} for n in (4, 1, 2, 3)]
    for point in method.points():
        method.set_point(model, point)
        run = model(tiny_text.batch(4)).stats["routed"].run
        assert sum(bool(each.any()) for each in run) <= point["recursions"]


def test_thresholds_meet_the_shares(tiny_text) -> None:
    """In a language model quantiles of held-out scores let 3/4, 1/2 and 1/4 of the tokens go on."""
    method, model = Recursions(), make_model(tiny_text)
    batches = [tiny_text.batch(32, seed) for seed in range(4)]
    method.calibrate(model, batches)
    runs = [model(batch).stats["routed"].run for batch in batches]
    for number, share in enumerate((1.0, 0.75, 0.5, 0.25)):
        ran = torch.cat([run[number] for run in runs]).float().mean().item()
        assert ran == pytest.approx(share, abs=0.01)


def test_losses_of_the_routers_by_hand(tiny_text, tiny_image) -> None:
    """Scores of 0 are log 2 = 0.6931 from either answer, in each of three recursions with a choice.

    Token choice with p = 1/4 everywhere: all tokens choose depth 0, balance 4 x 1 x 1/4 = 1.
    """
    model = make_model(tiny_text, imitation_weight=0.5).train()
    model.router.weight.data.zero_()
    loss = model(tiny_text.batch(2)).aux_loss
    assert loss.item() == pytest.approx(0.5 * 3 * 0.693147, rel=1e-5)
    balanced = make_model(tiny_image, router="token", balance_weight=0.3).train()
    balanced.router.weight.data.zero_()
    assert balanced(tiny_image.batch(2)).aux_loss.item() == pytest.approx(0.3)
    assert make_model(tiny_image).train()(tiny_image.batch(2)).aux_loss == 0  # picks at inference


def test_a_cache_holds_what_ran(tiny_text) -> None:
    """Recursion by recursion the cache stores keys of the tokens that ran it, and of no other."""
    from methods.trunk.cache import Cache

    model = make_model(tiny_text, router="token")
    prompt = replace(tiny_text.batch(2), inputs=tiny_text.batch(2).inputs[:, :8])
    cache = Cache(2, 16)
    run = model(prompt, cache).stats["routed"].run
    attention = model.trunk.blocks[1].attention
    for number, ran in enumerate(run):
        held = cache.step(number).layer(attention).held(None, torch.device("cpu"))
        assert held.tolist() == ran.sum(1).tolist()


def test_what_has_no_inner_blocks_is_unsupported(tiny_image) -> None:
    """Maps are no tokens; of four blocks the first and the last leave two to share."""
    with pytest.raises(Unsupported, match="tokens"):
        Recursions().build(TaskSpec("i", "image", (1, 8, 8), 5), ResNet())
    with pytest.raises(Unsupported, match="group=3"):
        Recursions(group=3).build(tiny_image.spec, tiny_image.backbone)
    assert len(make_model(tiny_image, group=2).trunk.blocks) == 4
