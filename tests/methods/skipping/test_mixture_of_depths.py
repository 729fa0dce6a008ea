"""Mixture-of-Depths: the tokens that a block takes, and the others unchanged."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from bench import routing
from bench.plugins import construct
from bench.types import Batch
from methods.skipping.mixture_of_depths import MixtureOfDepths, RoutedBlock
from methods.trunk.state import State


def _block(tiny, capacity: float = 0.25) -> RoutedBlock:
    """A routed block on a tiny task, in inference mode."""
    model = MixtureOfDepths(capacity, [0.5]).build(tiny.spec, tiny.backbone).eval()
    return model.blocks[1]


def _oracle(block: RoutedBlock, state: State, run: torch.Tensor) -> torch.Tensor:
    """Compute the block for all tokens with unselected keys masked out, then choose by token."""
    batch = state.x.shape[0]
    outs = []
    for i in range(batch):  # one sample at a time: only selected tokens are looked at
        alone = state.select(torch.tensor([i]))
        kept = run[i].nonzero().flatten()[None]
        context = alone.take(kept)
        outs.append(block.block.feed(block.block.mix(alone, context=context)).x)
    dense = torch.cat(outs)
    gate = 2 * block.router(state.x).sigmoid()
    return torch.where(run[..., None], state.x + gate * (dense - state.x), state.x)


def test_every_second_block_is_routed(tiny) -> None:
    """Blocks 1 and 3 of four are routed."""
    model = MixtureOfDepths().build(tiny.spec, tiny.backbone)
    assert [isinstance(b, RoutedBlock) for b in model.blocks] == [False, True, False, True]


def test_full_capacity_with_a_zero_score_is_dense(tiny) -> None:
    """All tokens taken and scaled by g(0) = 1: the dense model."""
    dense = tiny.backbone.build(tiny.spec).eval()
    model = MixtureOfDepths(capacity=1.0).convert(dense, []).eval()
    for block in (model.blocks[1], model.blocks[3]):
        block.router.weight.data.zero_()
    with routing.force("open"):
        got = model(tiny.batch(3)).logits
    torch.testing.assert_close(got, dense(tiny.batch(3)).logits)


def test_the_gate_scales_what_the_block_adds(tiny_image) -> None:
    """At full capacity a routed block gives x + g(r) (block(x) - x)."""
    block, state = _block(tiny_image, 1.0), State(torch.randn(2, 16, 16))
    gate = 2 * block.router(state.x).sigmoid()
    expected = state.x + gate * (block.block(state).x - state.x)
    torch.testing.assert_close(block(state).x, expected)


def test_the_highest_scores_are_taken(tiny_image) -> None:
    """capacity 0.25 of 16 tokens takes the four highest scores and leaves the rest bit for bit."""
    block, state = _block(tiny_image), State(torch.randn(3, 16, 16))
    with routing.observe() as seen:
        x = block(state).x
    run = seen.decisions[0].run
    score = block.router(state.x)[..., 0]
    assert run.sum(1).tolist() == [4, 4, 4]
    assert score[run].view(3, 4).amin(1).gt(score[~run].view(3, 12).amax(1)).all()
    assert torch.equal(x[~run], state.x[~run])
    assert (x[run] != state.x[run]).any(-1).all()


@pytest.mark.parametrize("training", [False, True])
def test_gathering_equals_masking(tiny, training: bool) -> None:
    """Working on the gathered tokens equals working on all with the others masked out."""
    block, state = _block(tiny).train(training), State(torch.randn(4, 16, 16))
    with routing.force("random", share=0.5), routing.observe() as seen:
        x = block(state).x
    run = seen.decisions[0].run
    assert len(set(run.sum(1).tolist())) > 1  # ragged
    torch.testing.assert_close(x, _oracle(block, state, run), atol=1e-5, rtol=1e-5)
    assert torch.equal(x[~run], state.x[~run])


def test_nothing_selected_is_nothing_done(tiny) -> None:
    """A closed gate leaves the state as it is and never calls the block."""
    block, state = _block(tiny), State(torch.randn(2, 16, 16))
    block.block.forward = None  # calling it would fail
    with routing.force("closed"):
        assert block(state).x is state.x


def _calibrate(tiny):
    method = MixtureOfDepths(0.25, [0.125, 0.5])
    model = method.build(tiny.spec, tiny.backbone).eval()
    method.calibrate(model, [tiny.batch(32, seed) for seed in range(4)])
    return method, model


def test_inference_is_causal(tiny_text) -> None:
    """Changing token 9 changes no selection and no logits before it; top-k in training may."""
    _, model = _calibrate(tiny_text)
    batch = tiny_text.batch(8)
    changed = batch.inputs.clone()
    changed[:, 9] = (changed[:, 9] + 1) % 11
    with routing.observe() as one:
        before = model(batch).logits
    with routing.observe() as two:
        after = model(Batch(changed, batch.targets)).logits
    torch.testing.assert_close(before[:, :9], after[:, :9], atol=1e-5, rtol=1e-5)
    for first, second in zip(one.decisions, two.decisions, strict=True):
        assert first.run.any()
        assert torch.equal(first.run[:, :9], second.run[:, :9])
    model.train()
    with torch.no_grad():
        seen = [model(Batch(tokens, tokens)).logits[:, :9] for tokens in (batch.inputs, changed)]
    assert not torch.allclose(*seen, atol=1e-5)


def test_thresholds_meet_the_capacity(tiny_text) -> None:
    """On the calibration data each routed block takes the capacity's share, at every point."""
    method, model = _calibrate(tiny_text)
    for point in method.points():
        method.set_point(model, point)
        with routing.observe() as seen:
            for seed in range(4):
                model(tiny_text.batch(32, seed))
        for name in ("block1", "block3"):
            taken = torch.cat([d.run for d in seen.named(name)]).float().mean().item()
            # few symbols: equal tokens at equal positions tie, hence 2 points of tolerance
            assert taken == pytest.approx(point["capacity"], abs=0.02)


def test_points_choose_the_capacity(tiny_image) -> None:
    """capacity 0.5 of 16 tokens takes eight."""
    method = MixtureOfDepths(0.25, [0.5])
    model = method.build(tiny_image.spec, tiny_image.backbone).eval()
    method.set_point(model, {"capacity": 0.5})
    with routing.observe() as seen:
        model(tiny_image.batch(2))
    assert [d.run.sum(1).tolist() for d in seen.decisions] == [[8, 8], [8, 8]]


def test_every_capacity_is_one_point() -> None:
    """The default comes first and is not repeated; shares outside (0, 1] are refused."""
    points = MixtureOfDepths(0.5, [0.25, 0.5]).points()
    assert points == [{"capacity": 0.5}, {"capacity": 0.25}]
    with pytest.raises(ValueError, match=r"1\.5"):
        construct(MixtureOfDepths, {"capacity": 1.5})
    with pytest.raises(ValueError, match=r"1\.5"):
        construct(MixtureOfDepths, {"capacities": [0.5, 1.5]})


def test_the_predictor_learns_without_disturbing_the_model(tiny_text) -> None:
    """The predictor's loss reaches the predictor and nothing else."""
    model = MixtureOfDepths().build(tiny_text.spec, tiny_text.backbone).train()
    model(tiny_text.batch(4)).aux_loss.backward()
    touched = {name for name, p in model.named_parameters() if p.grad is not None}
    assert touched == {
        f"blocks.{i}.predictor.{layer}.{kind}"
        for i in (1, 3)
        for layer in (0, 2)
        for kind in ("weight", "bias")
    }


def test_padding_is_not_counted(tiny_labels) -> None:
    """capacity 0.25 of 16, 9 and 4 real tokens: the best 4, 3 (9/4 rounded up) and 1 of those."""
    block = _block(tiny_labels)
    mask = torch.arange(16) < torch.tensor([[16], [9], [4]])
    state = State(torch.randn(3, 16, 16), mask=mask)
    with routing.observe() as seen:
        block(state)
    run = seen.decisions[0].run
    assert run.sum(1).tolist() == [4, 3, 1]
    assert not (run & ~mask).any()
    score = block.router(state.x)[..., 0].masked_fill(~mask, -torch.inf)
    for i in range(3):
        assert score[i][run[i]].min() > score[i][~run[i]].max()


def test_a_decoders_token_pays_for_what_it_reads(tiny_pairs) -> None:
    """D = 16, H = 32 and S = 16 tokens of the encoder, as of `allocation`.

    A token: 8 D^2 + 4 D^2 + 4 S D + 4 D H = 6,144; a pair 4 D = 64; a sample's encoder output
    4 S D^2 = 16,384.
    """
    model = MixtureOfDepths().build(tiny_pairs.spec, tiny_pairs.backbone).eval()
    with routing.observe() as seen:
        model(tiny_pairs.batch(2))
    assert {d.cost for d in seen.decisions} == {routing.Cost(6144.0, 64.0, 16384.0)}


def test_a_decoders_padding_is_never_taken(tiny_pairs) -> None:
    """Of five real tokens the half is three, rounded up; padding does not compete."""
    spec = dataclasses.replace(tiny_pairs.spec, decoder_padding=0)
    model, batch = MixtureOfDepths().build(spec, tiny_pairs.backbone), tiny_pairs.batch(3)
    inputs = batch.decoder_inputs.clamp_min(1).index_fill(1, torch.tensor([5, 6, 7]), 0)
    batch = dataclasses.replace(batch, decoder_inputs=inputs)
    with routing.observe() as seen:
        model.train()(batch)
    assert [d.run.sum(1).tolist() for d in seen.decisions] == [[3, 3, 3], [3, 3, 3]]
    assert not any(d.run[:, 5:].any() for d in seen.decisions)
    MixtureOfDepths().calibrate(model.eval(), [batch])
    with routing.force("open"), routing.observe() as forced:
        model(batch)
    assert all(torch.equal(d.run, inputs > 0) for d in forced.decisions)
