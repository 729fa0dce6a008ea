"""Early exit: what leaves, what continues, and the declared cost."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bench import routing
from bench.types import Batch, Output
from methods.parts.exits.model import confidence
from methods.parts.exits.thresholds import NEVER, find_threshold, mean_share
from methods.skipping.early_exit import EarlyExit


def _model(tiny, **settings):
    """A model with exits whose untrained heads disagree, so that confidences differ."""
    torch.manual_seed(1)
    model = EarlyExit(**{"every": 1, **settings}).build(tiny.spec, tiny.backbone).eval()
    for head in [*model.heads, model.trunk.head]:
        torch.nn.init.normal_(head.linear.weight, std=0.7)
    return model


def _median_threshold(model, batch: Batch) -> float:
    """Half of the elements leave at the first exit; halfway between two, so that none is close."""
    sure = model.confidences(batch)[0].sort().values
    middle = len(sure) // 2
    return sure[middle - 1 : middle + 1].mean().item()


def _rows(model, batch: Batch) -> list[int]:
    """How many samples each block was called on."""
    rows: list[int] = []
    hooks = [
        block.register_forward_pre_hook(lambda module, args: rows.append(len(args[0].x)))
        for block in model.trunk.blocks
    ]
    model(batch)
    for hook in hooks:
        hook.remove()
    return rows


def test_nobody_leaves_above_one(tiny) -> None:
    """With a threshold that no probability reaches the model is the dense trunk."""
    model, batch = _model(tiny), tiny.batch(5)
    assert model.threshold == NEVER
    assert torch.equal(model(batch).logits, model.trunk(batch).logits)


def test_everybody_leaves_at_zero(tiny) -> None:
    """With threshold 0 every sample leaves at the first head and one block of four runs."""
    model, batch = _model(tiny), tiny.batch(5)
    model.threshold.zero_()
    assert _rows(model, batch) == [5]
    state = model.trunk.blocks[0](model.trunk.stem(batch))
    assert torch.equal(model(batch).logits, model.heads[0](state))


def test_batches_shrink_to_who_is_left(tiny_image) -> None:
    """A block is called on the samples left: as many as exits so far were not sure about."""
    model, batch = _model(tiny_image), tiny_image.batch(12)
    model.threshold.fill_(_median_threshold(model, batch))
    stays = (model.confidences(batch) < model.threshold).int().cumprod(0).sum(1).tolist()
    assert 0 < stays[0] < 12
    assert _rows(model, batch) == [12, *[n for n in stays if n]]


def test_exits_equal_a_loop_over_samples(tiny) -> None:
    """The compacted batch gives every sample what it gets alone."""
    model, batch = _model(tiny), tiny.batch(8)
    model.threshold.fill_(_median_threshold(model, batch))
    alone = [model(batch.select(torch.tensor([i]))).logits for i in range(8)]
    torch.testing.assert_close(model(batch).logits, torch.cat(alone), atol=1e-5, rtol=1e-5)


def test_tokens_that_left_stay_visible(tiny_text) -> None:
    """Skipping equals running everything with the left tokens' states frozen."""
    model, batch = _model(tiny_text), tiny_text.batch(6)
    model.threshold.fill_(_median_threshold(model, batch))
    with routing.observe() as seen:
        skipped = model(batch).logits
    assert 0.2 < seen.decisions[0].run.float().mean() < 0.8
    with routing.replay(seen):
        masked = model.train()(batch).logits
    torch.testing.assert_close(skipped, masked, atol=1e-5, rtol=1e-5)


def test_a_token_decides_without_the_future(tiny_text) -> None:
    """Changing token 9 changes neither decisions nor logits of tokens 0 to 8."""
    model, batch = _model(tiny_text), tiny_text.batch(1)
    model.threshold.fill_(_median_threshold(model, batch))
    changed = batch.inputs.clone()
    changed[:, 9] = (changed[:, 9] + 1) % 11
    with routing.observe() as one:
        before = model(batch).logits
    with routing.observe() as two:
        after = model(Batch(changed, batch.targets)).logits
    torch.testing.assert_close(before[:, :9], after[:, :9], atol=1e-5, rtol=1e-5)
    for first, second in zip(one.decisions, two.decisions, strict=False):
        assert torch.equal(first.run[:, :9], second.run[:, :9])


@settings(max_examples=30, deadline=None)
@given(st.floats(0.3, 1.0))
def test_threshold_stays_within_the_budget(budget: float) -> None:
    """The threshold found runs at most the budget; one above the next confidence runs more."""
    sure = torch.rand(3, 100, generator=torch.Generator().manual_seed(0))
    shares = torch.tensor([0.25, 0.5, 0.75, 1.0])
    found = find_threshold(sure, shares, budget)
    assert mean_share(sure, shares, found) <= budget
    higher = sure[sure > found].sort().values
    assert len(higher) == 0 or mean_share(sure, shares, higher[0].item() + 1e-6) > budget


def test_mean_share_by_hand() -> None:
    """Sure at exit 0, at exit 1 and never: (1/3 + 2/3 + 1) / 3 = 2/3 of the blocks."""
    sure = torch.tensor([[0.9, 0.1, 0.1], [0.1, 0.9, 0.1]])
    assert mean_share(sure, torch.tensor([1 / 3, 2 / 3, 1.0]), 0.5) == pytest.approx(2 / 3)


def test_calibration_orders_the_points(tiny) -> None:
    """A larger budget gives a higher threshold; the first point is in use afterwards."""
    method = EarlyExit()
    model = _model(tiny)
    method.calibrate(model, [tiny.batch(16, seed) for seed in range(3)])
    pairs = zip((point["budget"] for point in method.points()), model.thresholds, strict=True)
    by_budget = [float(threshold) for _, threshold in sorted(pairs)]
    assert by_budget == sorted(by_budget)
    assert by_budget[0] < by_budget[-1]
    assert model.threshold == model.thresholds[0]
    method.set_point(model, method.points()[2])
    assert model.threshold == model.thresholds[2]


def test_an_unknown_budget_is_refused(tiny) -> None:
    """A point that was not calibrated cannot be set."""
    with pytest.raises(ValueError, match=r"0\.123"):
        EarlyExit().set_point(_model(tiny), {"budget": 0.123})


def test_a_budget_below_the_first_exit_is_refused(tiny_image) -> None:
    """Two of four blocks run before the first exit, which is more than 0.4 of them."""
    method = EarlyExit(every=2, budgets=[0.7, 0.4])
    with pytest.raises(ValueError, match=r"budget 0\.4 cannot be kept.* runs 0\.50 of the blocks"):
        method.build(tiny_image.spec, tiny_image.backbone)


def test_loss_weighs_later_exits_more(tiny_image) -> None:
    """Four exits with losses 1, 2, 3, 4 average to (1 + 4 + 9 + 16) / 10 = 3."""
    losses = iter([1.0, 2.0, 3.0, 4.0])
    model = _model(tiny_image).train()
    criterion = lambda output, batch: torch.tensor(next(losses))  # noqa: E731
    assert EarlyExit().loss(model, tiny_image.batch(2), criterion, 0.0).item() == pytest.approx(3.0)


def test_every_nth_block_has_an_exit(tiny) -> None:
    """every=2 of four blocks: one inner exit after the second."""
    model = _model(tiny, every=2)
    assert model.ends == [2, 4]
    assert len(model.heads) == 1


def test_a_model_without_inner_exits_is_refused(tiny) -> None:
    """every=4 of four blocks leaves no exit but the last."""
    with pytest.raises(ValueError, match="every=4"):
        _model(tiny, every=4)


def test_confidence_is_the_largest_probability() -> None:
    """Logits log 1, log 3: the probabilities are 1/4 and 3/4."""
    assert confidence(torch.tensor([1.0, 3.0]).log()).item() == pytest.approx(0.75)


def test_training_answers_at_every_exit(tiny) -> None:
    """In training all exits give logits, the last one being the model's own."""
    output: Output = _model(tiny).train()(tiny.batch(2))
    assert len(output.stats["exits"]) == 4
    assert torch.equal(output.logits, output.stats["exits"][-1])


def test_a_decoders_token_pays_for_what_it_reads(tiny_pairs) -> None:
    """D = 16, H = 32, T = 8 tokens, S = 16 of the encoder, 11 symbols; what all see is shared.

    A token: query and output of both attentions 8 D^2 = 2,048, scores and mixing 4 D (T + S) =
    1,536, feed-forward 4 D H = 2,048, head 2 D x 11 = 352: 5,984. A sample: keys and values of its
    tokens and of the encoder's, 4 D^2 (T + S) = 24,576.
    """
    model, batch = _model(tiny_pairs), tiny_pairs.batch(4)
    with routing.observe() as seen:
        model(batch)
    assert {d.cost for d in seen.decisions} == {routing.Cost(5984.0, sample=24576.0)}


def test_a_decoders_padding_leaves_at_the_first_exit(tiny_pairs) -> None:
    """Forced open, the real tokens alone continue; their logits are those without padding."""
    spec = replace(tiny_pairs.spec, decoder_padding=0)
    model, batch = EarlyExit().build(spec, tiny_pairs.backbone).eval(), tiny_pairs.batch(3)
    inputs = batch.decoder_inputs.clamp_min(1)
    padded = replace(batch, decoder_inputs=inputs.index_fill(1, torch.tensor([5, 6, 7]), 0))
    with routing.force("open"), routing.observe() as seen:
        logits = model(padded).logits
        expected = model(replace(batch, decoder_inputs=inputs[:, :5])).logits
    assert all(torch.equal(d.run, padded.decoder_inputs > 0) for d in seen.decisions[:3])
    torch.testing.assert_close(logits[:, :5], expected)
    assert model.confidences(padded).shape == (3, 3 * 5)
