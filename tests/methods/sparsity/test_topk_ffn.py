"""Sparse activation in blocks: equal to the dense layer with the other neurons masked."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from bench import routing
from bench.meters.flops.counter import count
from bench.types import Unsupported
from methods.backbone.transformer import FeedForward
from methods.parts.weights.clusters import balanced_clusters
from methods.sparsity.topk_ffn import BlockFFN, TopkFFN


def layer(k: int, *, num_blocks: int = 4) -> tuple[FeedForward, BlockFFN]:
    """A dense layer 8 -> 16 -> 8 and its block form, both in inference mode."""
    dense = FeedForward(8, 16).eval()
    return dense, BlockFFN(dense, num_blocks, k, 0.1).eval()


def test_all_blocks_are_the_dense_layer() -> None:
    """k = number of blocks is the dense layer: grouping neurons changes nothing."""
    dense, ffn = layer(4)
    x = torch.randn(3, 5, 8)
    torch.testing.assert_close(ffn(x), dense(x))


@pytest.mark.parametrize("activation", ["relu", "gelu_tanh"])
def test_other_activations_are_kept(activation: str) -> None:
    """GPT-2's GELU and ReLU stay what they are, with few rows and with many."""
    dense = FeedForward(8, 16, activation=activation).eval()
    ffn = BlockFFN(dense, 4, 4, 0.1).eval()
    for num_tokens in (1, 40):
        x = torch.randn(3, num_tokens, 8)
        torch.testing.assert_close(ffn(x), dense(x))


def test_other_layers_are_refused(tiny_text) -> None:
    """Gated layers and layers without biases have no form in blocks here."""
    for settings in ({"activation": "swiglu"}, {"bias": False}):
        backbone = replace(tiny_text.backbone, **settings)
        with pytest.raises(Unsupported, match="feed-forward layers"):
            TopkFFN(num_blocks=4, k=1).build(tiny_text.spec, backbone)


def test_forced_open_is_the_dense_model(tiny) -> None:
    """The converted model with every gate forced open is the dense model, trained or not."""
    dense = tiny.backbone.build(tiny.spec).eval()
    model = TopkFFN(num_blocks=4, k=1).convert(dense, []).eval()
    with routing.force("open"):
        got = model(tiny.batch(3)).logits
    torch.testing.assert_close(got, dense(tiny.batch(3)).logits)


def test_skipping_is_masking_the_neurons_of_other_blocks() -> None:
    """k of E blocks equals the dense layer with the hidden neurons of the others set to zero."""
    dense, ffn = layer(2)
    x = torch.randn(3, 5, 8)
    with routing.observe() as seen:
        got = ffn(x)
    run = seen.decisions[0].run
    assert (run.sum(-1) == 2).all()
    rows = F.normalize(dense.up.weight.detach(), dim=1)
    owner, _ = balanced_clusters(rows, 4)
    hidden = F.gelu(dense.up(x)) * run[..., owner]
    torch.testing.assert_close(got, dense.down(hidden))


def test_training_equals_inference_under_replayed_decisions(tiny) -> None:
    """The masked training pass computes what skipping inference computes."""
    model = TopkFFN(num_blocks=4, k=2).build(tiny.spec, tiny.backbone).eval()
    batch = tiny.batch(4)
    with routing.observe() as seen:
        expected = model(batch).logits
    with routing.replay(seen):
        got = model.train()(batch).logits
    torch.testing.assert_close(got, expected)


def test_closed_gates_leave_the_output_bias() -> None:
    """With no block running only the second layer's bias is left."""
    dense, ffn = layer(2)
    with routing.force("closed"):
        out = ffn(torch.randn(2, 3, 8))
    torch.testing.assert_close(out, dense.down.bias.expand(2, 3, 8))


def test_blocks_that_did_not_run_get_no_gradient() -> None:
    """In training, weights of a block that no token chose have a gradient of exactly zero."""
    _, ffn = layer(1)
    out, _ = ffn.train()(torch.randn(1, 1, 8))
    with routing.observe() as seen:
        out, _ = ffn(torch.randn(1, 1, 8))
    out.sum().backward()
    used = seen.decisions[0].run[0, 0]
    assert ffn.blocks.up.grad is not None
    assert torch.equal(ffn.blocks.up.grad.flatten(1).abs().sum(1) > 0, used)


def test_task_loss_and_activity_teach_the_predictor() -> None:
    """The predictor learns from the task through its chosen blocks and from what is active."""
    _, ffn = layer(2)
    for which in (0, 1):
        ffn.train().zero_grad()
        result = ffn(torch.randn(2, 3, 8))
        result[which].sum().backward()
        grad = ffn.predictor.similarity.weight.grad
        assert grad is not None
        assert grad.abs().sum() > 0


def test_the_predictor_finds_active_blocks() -> None:
    """Trained on its own loss, the predictor picks the most active block far above chance (1/4)."""
    _, ffn = layer(1)
    optimizer = torch.optim.Adam(ffn.predictor.parameters(), lr=0.02)
    for _ in range(150):
        _, loss = ffn.train()(torch.randn(8, 8, 8))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    x = torch.randn(32, 32, 8)
    most_active = ffn.blocks.hidden_all(x).square().sum(-1).argmax(-1)
    found = (ffn.predictor(x).argmax(-1) == most_active).float().mean()
    assert found > 0.5


def test_clusters_are_equal_and_gather_what_is_alike() -> None:
    """Four directions with four noisy copies each, shuffled, come out as four clusters of four."""
    directions = torch.eye(4).repeat(4, 1)  # row i points along axis i % 4
    shuffle = torch.randperm(16)
    points = F.normalize(directions[shuffle] + 0.01 * torch.randn(16, 4), dim=1)
    owner, centers = balanced_clusters(points, 4)
    assert owner.bincount().tolist() == [4, 4, 4, 4]
    assert len(set(zip(owner.tolist(), (shuffle % 4).tolist(), strict=True))) == 4
    torch.testing.assert_close(centers.norm(dim=1), torch.ones(4))


def test_operating_points_run_that_many_blocks(tiny) -> None:
    """Each point runs k blocks per token and declares k / E of the dense layer's FLOPs."""
    method = TopkFFN()
    model = method.build(tiny.spec, tiny.backbone).eval()
    assert [p["k"] for p in method.points()] == [2, 1, 3, 4, 5, 6, 7, 8]
    dense = 4 * 16 * 32 * 4 * 2 * 16  # 4 layers, 2 samples of 16 tokens
    for point in method.points():
        method.set_point(model, point)
        with routing.observe() as seen:
            model(tiny.batch(2))
        assert seen.declared_flops() == dense * point["k"] / 8


def test_a_sample_alone_equals_the_same_sample_in_a_batch(tiny) -> None:
    """Results do not depend on the batch."""
    model = TopkFFN().build(tiny.spec, tiny.backbone).eval()
    batch = tiny.batch(4)
    alone = model(batch.select(torch.tensor([2]))).logits
    torch.testing.assert_close(alone, model(batch).logits[2:3], atol=1e-5, rtol=1e-5)


def test_conversion_leaves_the_dense_model_alone(tiny_image) -> None:
    """convert works on a copy."""
    dense = tiny_image.backbone.build(tiny_image.spec)
    TopkFFN().convert(dense, [])
    assert sum(isinstance(module, FeedForward) for module in dense.modules()) == 4


def test_impossible_settings_are_refused(tiny_image) -> None:
    """k beyond the number of blocks, and blocks that do not divide the neurons: ValueError."""
    with pytest.raises(ValueError, match="k=9: there are 8 blocks"):
        TopkFFN(k=9)
    with pytest.raises(ValueError, match="do not fall into 5 equal blocks"):
        TopkFFN(num_blocks=5, k=1).build(tiny_image.spec, tiny_image.backbone)


def test_executed_flops_are_the_declared_ones() -> None:
    """Inference executes k blocks per token, both matrices, and otherwise only the predictor."""
    _, ffn = layer(1)
    with routing.observe() as seen:
        counted = count(ffn, torch.randn(3, 5, 8), strict=True)
    assert counted.by_region["expert"] == seen.declared_flops() == 15 * 4 * 8 * 4  # D 8, h 4
    assert counted.total - counted.by_region["expert"] == 15 * 2 * (8 * 4 + 4 * 4)
