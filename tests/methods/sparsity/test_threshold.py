"""Thresholds on inputs and gates: quantiles, zeros that are skipped, allocation."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bench import routing
from bench.meters.flops.counter import count
from bench.types import Unsupported
from methods.backbone.resnet import ResNet
from methods.parts.sparse.products import Places, weighted_rows
from methods.parts.sparse.thresholds import (
    MagnitudeGate,
    ThresholdFFN,
    ThresholdGatedFFN,
    ThresholdLinear,
    gates,
    quantile,
)
from methods.sparsity.threshold import Threshold
from methods.trunk.feedforward import FeedForward, GatedFeedForward


def converted(tiny: Any, method: Threshold) -> tuple[nn.Module, nn.Module]:
    """An untrained dense model and its calibrated conversion."""
    dense = tiny.backbone.build(tiny.spec).eval()
    model = method.convert(dense, []).eval()
    with torch.no_grad():
        method.calibrate(model, [tiny.batch(16, k) for k in range(3)])
    return dense, model


def test_a_quantile_by_hand() -> None:
    """Half of 1, 2, 3, 4 do not exceed 2, three quarters 3; a share of 0 leaves out nothing."""
    values = torch.tensor([[4.0, 1.0], [3.0, 2.0]])
    assert quantile(values, 0.5) == 2
    assert quantile(values, 0.75) == 3
    assert quantile(values, 0.0) == 0


def test_small_inputs_are_zeros() -> None:
    """y = W (x where |x| > t) + b, for one token and for several."""
    dense = nn.Linear(3, 2)
    dense.weight.data = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    dense.bias.data = torch.tensor([0.5, 0.0])
    layer = ThresholdLinear(dense, "a", 1).eval()
    layer.gate.threshold.fill_(1.0)
    # |x| = 1 is not above 1. Left are -2 and 3: -2 x 1 + 3 x 3 + 0.5 and -2 x 4 + 3 x 6.
    x = torch.tensor([[[-2.0, 1.0, 3.0]]])
    torch.testing.assert_close(layer(x), torch.tensor([[[7.5, 10.0]]]))
    two = torch.cat([x, torch.zeros_like(x)], 1)  # the second token has no input left
    torch.testing.assert_close(layer(two)[0, 1], dense.bias.detach())
    torch.testing.assert_close(layer.train()(two)[:, :1], torch.tensor([[[7.5, 10.0]]]))


@pytest.mark.parametrize("kind", ["inputs", "gates"])
def test_threshold_zero_is_dense(tiny, kind: str) -> None:
    """At sparsity 0 nothing but zeros is left out: the dense model's logits."""
    dense, model = converted(tiny, Threshold(kind=kind, sparsities=[0.0, 0.5]))
    batch = tiny.batch(3)
    torch.testing.assert_close(model(batch).logits, dense(batch).logits)


@pytest.mark.parametrize("kind", ["inputs", "gates"])
def test_a_sparsity_is_that_share_of_zeros(tiny_text, kind: str) -> None:
    """On data like the calibration's, 40 % of the numbers stay out, within 5 points."""
    method = Threshold(kind=kind, sparsities=[0.4])
    _, model = converted(tiny_text, method)
    with routing.observe() as seen:
        model(tiny_text.batch(32, 9))
    shares = [float((~d.run).float().mean()) for d in seen.decisions]
    # Later layers see the errors of earlier ones, and a few more or fewer small numbers.
    assert sum(shares) / len(shares) == pytest.approx(0.4, abs=0.05)


def test_skipping_saves_what_is_left_out() -> None:
    """FLOPs are 2 N per input that is let through, alone and in a batch."""
    layer = ThresholdLinear(nn.Linear(8, 6), "a", 1).eval()
    layer.gate.threshold.fill_(0.7)
    for shape in ((1, 1, 8), (3, 5, 8)):
        x = torch.randn(shape)
        num_running = int((x.abs() > 0.7).sum())
        assert count(layer, x, strict=True).total == 2 * 6 * num_running


@pytest.mark.parametrize("bias", [True, False])
def test_cats_skips_rows_of_both_matrices(bias: bool) -> None:
    """With a gate, rows of W1 and W2: 4 D per neuron beside the gate's own 2 D H."""
    dense = GatedFeedForward(8, 12, bias=bias).eval()
    layer = ThresholdGatedFFN(dense, "a", 1).eval()
    layer.gate.threshold.fill_(0.1)
    x = torch.randn(2, 3, 8)
    opened = F.silu(dense.gate(x))
    run = opened.abs() > 0.1
    torch.testing.assert_close(layer(x), dense.down(opened * run * dense.up(x)))
    torch.testing.assert_close(layer.train()(x), dense.down(opened * run * dense.up(x)))
    flops = count(layer.eval(), x, strict=True).total
    assert flops == 2 * 6 * 8 * 12 + 4 * 8 * int(run.sum())


def test_without_a_gate_the_activations_are_thresholded() -> None:
    """W2's rows of small activations are skipped, W1 is computed as a whole."""
    dense = FeedForward(8, 12).eval()
    layer = ThresholdFFN(dense, "a", 1).eval()
    layer.gate.threshold.fill_(0.2)
    x = torch.randn(1, 1, 8)
    hidden = F.gelu(dense.up(x))
    torch.testing.assert_close(layer(x), dense.down(hidden * (hidden.abs() > 0.2)))


def test_nothing_left_is_the_bias() -> None:
    """With every gate closed only biases are left, and no kernel is called on nothing."""
    for dense, layer in (
        (FeedForward(8, 12), ThresholdFFN),
        (GatedFeedForward(8, 12, bias=True), ThresholdGatedFFN),
    ):
        made = layer(dense, "a", 1).eval()
        with routing.force("closed"):
            found = made(torch.randn(2, 3, 8))
        torch.testing.assert_close(found, dense.down.bias.expand(2, 3, 8))


def test_sums_and_products_of_single_rows_have_gradients() -> None:
    """Both kernels give the gradients of the dense formulas, in double precision's digits."""
    table, x = torch.randn(6, 4, requires_grad=True), torch.randn(3, 4, requires_grad=True)
    run = torch.rand(3, 6) > 0.5
    places = Places.of(run)
    assert places is not None
    found = places.products(x, table)
    torch.testing.assert_close(found, (x @ table.T)[run])
    got = torch.autograd.grad(found.square().sum(), (x, table))
    wanted = torch.autograd.grad((x @ table.T)[run].square().sum(), (x, table))
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, other)
    weights = torch.randn(3, 6)
    torch.testing.assert_close(weighted_rows(table, weights, run), (weights * run) @ table)


def test_a_single_row_is_cut_and_added_up() -> None:
    """One token's sum is computed in pieces: any number of running rows gives the same."""
    table = torch.randn(9, 4)
    for num_running in range(10):
        run = (torch.arange(9) < num_running)[None]
        weights = torch.randn(1, 9)
        torch.testing.assert_close(weighted_rows(table, weights, run), (weights * run) @ table)


def test_greedy_allocation_spares_what_matters(tiny_text) -> None:
    """Of a block's layers, the same mean sparsity is spread unevenly, weighted by their weights."""
    _, model = converted(tiny_text, Threshold(allocation="greedy", sparsities=[0.5]))
    batch = tiny_text.batch(32, 9)
    with routing.observe() as seen:
        model(batch)
    costs = {gate.name: gate.cost for gate in gates(model)}
    block = [d for d in seen.decisions if d.name.startswith("blocks.0.")]
    weights = [costs[d.name] * d.run.shape[-1] for d in block]
    shares = [float((~d.run).float().mean()) for d in block]
    mean = sum(w * s for w, s in zip(weights, shares, strict=True)) / sum(weights)
    assert mean == pytest.approx(0.5, abs=0.08)
    assert max(shares) - min(shares) > 0.02


def test_operating_points_are_sparsities(tiny_text) -> None:
    """Every point's thresholds are larger than those of a smaller sparsity."""
    method = Threshold()
    _, model = converted(tiny_text, method)
    found = {}
    for point in method.points():
        method.set_point(model, point)
        found[point["sparsity"]] = [float(gate.threshold) for gate in gates(model)]
    assert method.points()[0] == {"sparsity": 0.5}
    assert len(found) == 7
    ordered = [found[sparsity] for sparsity in sorted(found)]
    for low, high in pairwise(ordered):
        assert all(a <= b for a, b in zip(low, high, strict=True))


def test_impossible_settings_and_models_are_refused(tiny_image, tiny_text) -> None:
    """A sparsity of 1, an allocation of one threshold per block, a model without such layers."""
    with pytest.raises(ValueError, match=r"sparsities.*must be at least 0 and below 1"):
        Threshold(sparsities=[1.0])
    with pytest.raises(ValueError, match="choose uniform"):
        Threshold(kind="gates", allocation="greedy")
    convolutional = ResNet([1, 1], [8, 16]).build(tiny_image.spec)
    for kind in ("inputs", "gates"):
        with pytest.raises(Unsupported, match="threshold"):
            Threshold(kind=kind).convert(convolutional, [])
    gated = replace(tiny_text.backbone, activation="swiglu").build(tiny_text.spec)
    assert len(gates(Threshold(kind="gates").convert(gated, []))) == 4


def test_a_gate_keeps_its_thresholds_in_its_state() -> None:
    """What was calibrated travels with the weights."""
    assert set(MagnitudeGate("a", 3, 1.0).state_dict()) == {"threshold", "thresholds"}
