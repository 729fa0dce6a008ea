"""ReLU in place of another activation: zeros are skipped exactly."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from bench import routing
from bench.meters.flops.counter import count
from bench.types import Unsupported
from methods.backbone.resnet import ResNet
from methods.parts.sparse.thresholds import ThresholdFFN, gates
from methods.sparsity.relu_sparse import ReluSparse, ramp
from methods.trunk.feedforward import FeedForward


def test_the_penalty_rises_along_a_sine() -> None:
    """0 at first, half in the middle, all at the end; a sixth of pi is (1 - 0.8660) / 2."""
    assert [ramp(t) for t in (0.0, 0.5, 1.0)] == pytest.approx([0.0, 0.5, 1.0])
    assert ramp(1 / 6) == pytest.approx(0.0669873)


def test_zero_neurons_are_skipped_exactly() -> None:
    """Skipping gives W2 relu(W1 x) + b, and reads one row of W2 per neuron above 0."""
    dense = FeedForward(8, 16).eval()
    layer = ThresholdFFN(dense, "a", 1, activate=F.relu).eval()
    x = torch.randn(2, 3, 8)
    hidden = F.relu(dense.up(x))
    torch.testing.assert_close(layer(x), dense.down(hidden))
    active = int((hidden > 0).sum())
    assert 0 < active < hidden.numel()
    assert count(layer, x, strict=True).total == 2 * 6 * 8 * 16 + 2 * 8 * active


def test_training_adds_the_mean_activation() -> None:
    """The layer returns l1 times the mean of its activations, which the loss weighs by the ramp."""
    layer = ThresholdFFN(FeedForward(8, 16), "a", 1, activate=F.relu, l1=0.5).train()
    x = torch.randn(2, 3, 8)
    found = layer(x)
    assert isinstance(found, tuple)
    torch.testing.assert_close(found[1], 0.5 * F.relu(layer.up(x)).mean())


def test_the_penalty_makes_activations_sparser(tiny_text) -> None:
    """After the same steps fewer neurons are above 0 than without it."""
    shares = []
    for l1 in (0.0, 100.0):
        torch.manual_seed(0)
        method = ReluSparse(l1=l1)
        model = method.build(tiny_text.spec, tiny_text.backbone).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        for step in range(10):
            optimizer.zero_grad()
            loss = method.loss(model, tiny_text.batch(8, step), tiny_text.criterion, 1.0)
            loss.backward()
            optimizer.step()
        with routing.observe() as seen, torch.no_grad():
            model.eval()(tiny_text.batch(8, 99))
        shares.append(sum(float(d.run.float().mean()) for d in seen.decisions))
    assert shares[1] < 0.8 * shares[0]


def test_points_drop_a_share_of_the_positive_activations(tiny_text) -> None:
    """The default leaves all of them; at 0.5 about half of them run."""
    method = ReluSparse()
    model = method.build(tiny_text.spec, tiny_text.backbone).eval()
    method.calibrate(model, [tiny_text.batch(32)])
    running = []
    for point in method.points():
        method.set_point(model, point)
        with routing.observe() as seen, torch.no_grad():
            model(tiny_text.batch(32))
        running.append(float(seen.decisions[0].run.sum()))  # the first layer: the same inputs
    assert all(float(gate.thresholds[0]) == 0 for gate in gates(model))
    # Shares 0, 0.1, 0.25, 0.5, 0.75 of the same activations, in steps of one activation.
    assert [r / running[0] for r in running] == pytest.approx([1, 0.9, 0.75, 0.5, 0.25], abs=0.01)


def test_models_without_such_layers_are_refused(tiny_image) -> None:
    """Convolutional trunks have no feed-forward layers."""
    with pytest.raises(Unsupported, match="relu_sparse needs feed-forward layers"):
        ReluSparse().build(tiny_image.spec, ResNet([1, 1], [8, 16]))
