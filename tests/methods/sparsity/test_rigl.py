"""Dynamic sparse training: masks, drop and grow, packed products, FLOPs."""

from __future__ import annotations

import math
from copy import deepcopy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import distributed, nn

from bench.meters.flops.counter import count
from methods.backbone.resnet import ResNet
from methods.parts.sparse.layers import SparseConv2d, SparseLinear, matrices
from methods.parts.sparse.masks import drop_share, erdos_renyi_kernel, first_mask, moved
from methods.parts.sparse.matrix import SparseMatrix
from methods.sparsity.rigl import Clock, RigL, _norm


def trained(tiny: Any, method: RigL, num_steps: int = 8) -> nn.Module:
    """A tiny model after some steps of AdamW with the method's hooks; not exported."""
    model = method.build(tiny.spec, tiny.backbone).train()
    optimizer = torch.optim.AdamW(method.param_groups(model, 0.01), lr=0.01)
    for step in range(num_steps):
        optimizer.zero_grad()
        method.loss(model, tiny.batch(8, step), tiny.criterion, step / num_steps).backward()
        optimizer.step()
        method.after_step(model, (step + 1) / num_steps)
    return model


def stored(model: nn.Module) -> list[int]:
    """Elements of each matrix that are not 0."""
    return [int(matrix.dense().count_nonzero()) for matrix in matrices(model)]


def test_erk_by_hand() -> None:
    """Densities are proportional to (sum of sizes) / (product) and sum to the target."""
    # 4 x 4: 8 / 16 = 0.5; 8 x 8: 16 / 64 = 0.25; 3 x 2 kernels of 2 x 2: 9 / 24 = 0.375.
    # Target 0.25 (16 + 64 + 24) = 26 elements; e = 26 / (8 + 16 + 9) = 26 / 33.
    found = erdos_renyi_kernel({"a": (4, 4), "b": (8, 8), "c": (3, 2, 2, 2)}, 0.25)
    assert found == pytest.approx({"a": 0.5 * 26 / 33, "b": 0.25 * 26 / 33, "c": 0.375 * 26 / 33})
    assert 16 * found["a"] + 64 * found["b"] + 24 * found["c"] == pytest.approx(26)


def test_erk_makes_small_layers_dense() -> None:
    """A layer that would need more than all its elements is dense; others share the rest."""
    # 2 x 2: raw 1; 8 x 8: raw 0.25. Target 0.5 x 68 = 34; e = 34 / (4 + 16) = 1.7, so the first
    # is dense. The other stores 34 - 4 = 30 of 64.
    found = erdos_renyi_kernel({"a": (2, 2), "b": (8, 8)}, 0.5)
    assert found == pytest.approx({"a": 1.0, "b": 30 / 64})


def test_drop_and_grow_by_hand() -> None:
    """The smallest stored weights go, the largest gradients of what is not kept come."""
    mask = torch.tensor([[True, True, True, True, False, False]])
    magnitude = torch.tensor([[4.0, 1.0, 3.0, 2.0, 0.0, 0.0]])
    # Half of four: units 1 and 3 are dropped. Kept are 0 and 2, whose gradients do not count;
    # of the others 5 has the largest gradient, then 1, which returns.
    growth = torch.tensor([[9.0, 5.0, 9.0, 1.0, 2.0, 6.0]])
    assert moved(mask, magnitude, growth, 0.5).tolist() == [[True, True, True, False, False, True]]
    assert moved(mask, magnitude, growth, 0.2).tolist() == mask.tolist()  # 0.8 of a unit: none


def test_the_share_that_moves_falls_along_half_a_cosine() -> None:
    """0.3 at first, half of it in the middle, nothing at the end."""
    assert drop_share(0.0, 0.75, 0.3) == pytest.approx(0.3)
    assert drop_share(0.375, 0.75, 0.3) == pytest.approx(0.15)
    assert drop_share(0.75, 0.75, 0.3) == pytest.approx(0.0)


@pytest.mark.parametrize("growth", ["gradient", "random", "none", "top_kast"])
@pytest.mark.parametrize("settings", [{}, {"block": 4}, {"constant_fan_in": True}])
def test_the_number_of_stored_elements_is_constant(tiny_text, growth: str, settings: Any) -> None:
    """Updates change which elements are stored, and never how many, whatever drops and grows."""
    method = RigL(sparsity=0.75, growth=growth, **settings)
    before = method.build(tiny_text.spec, tiny_text.backbone)
    torch.manual_seed(0)  # the model that `trained` builds
    model = trained(tiny_text, method)
    assert [m.num_stored for m in matrices(model)] == [m.num_stored for m in matrices(before)]
    for matrix in matrices(model):
        assert matrix.mask is not None
        assert int(matrix.elements(matrix.mask).sum()) == matrix.num_stored
        if settings:  # equally many in every row
            assert len({int(row.sum()) for row in matrix.mask}) == 1
    assert max(stored(model)) <= max(m.num_stored for m in matrices(model))


def test_gradient_growth_changes_masks_and_static_does_not(tiny_text) -> None:
    """After training, RigL's, SET's and Top-KAST's masks are others than the first."""
    for growth in ("gradient", "random", "top_kast", "none"):
        method = RigL(growth=growth)
        torch.manual_seed(0)
        first = [m.mask for m in matrices(method.build(tiny_text.spec, tiny_text.backbone))]
        torch.manual_seed(0)
        last = [m.mask for m in matrices(trained(tiny_text, method))]
        same = [torch.equal(a, b) for a, b in zip(first, last, strict=True) if a is not None]
        assert all(same) == (growth == "none")


def test_grown_weights_begin_at_zero() -> None:
    """An update changes the function only through what it drops."""
    matrix = SparseMatrix(torch.tensor([[5.0, 1.0], [3.0, 7.0]]), 0.5)
    matrix.mask = torch.tensor([[True, True, False, False]])  # of 5, 1 | 3, 7
    matrix.clear_outside()
    matrix.dense_gradient = torch.tensor([[0.0, 0.0], [-2.0, 1.0]])
    method = RigL(drop=1.0, end=1.0)
    # At half of the training half of the two weights move: 1 is dropped, and the place of the
    # largest absolute gradient, that of the former 3, is stored.
    method._update(matrix, 0.5, Clock(2, 1.0))
    matrix.clear_outside()
    assert matrix.mask is not None
    assert matrix.mask.tolist() == [[True, False, True, False]]
    assert matrix.dense().tolist() == [[5.0, 0.0], [0.0, 0.0]]


def test_the_dense_gradient_reaches_updates_only() -> None:
    """Weights that are not stored get no gradient; what an update reads is that of all."""
    matrix = SparseMatrix(torch.ones(2, 2), 0.5)
    matrix.mask = torch.tensor([[True, False, True, False]])
    matrix.collects = True
    # y = W x with x = (2, 3): the gradient of every row is x.
    (matrix.dense() @ torch.tensor([2.0, 3.0])).sum().backward()
    assert matrix.weight is not None
    assert matrix.weight.grad is not None
    assert matrix.weight.grad.tolist() == [[2.0, 0.0], [2.0, 0.0]]
    assert matrix.dense_gradient is not None
    assert matrix.dense_gradient.tolist() == [[2.0, 3.0], [2.0, 3.0]]


def test_top_kast_stores_the_largest_and_reaches_more() -> None:
    """The forward pass has |A| weights, gradients reach |B| = 2 |A|, the norm weighs both."""
    matrix = SparseMatrix(torch.tensor([[4.0, -3.0], [2.0, 1.0]]), 0.25)
    matrix.reach(2.0)
    assert matrix.dense().tolist() == [[4.0, 0.0], [0.0, 0.0]]
    matrix.dense().sum().backward()
    assert matrix.weight is not None
    assert matrix.weight.grad is not None
    assert matrix.weight.grad.tolist() == [[1.0, 1.0], [0.0, 0.0]]
    # 4^2 + (-3)^2 / 0.25 = 16 + 36
    assert _norm(matrix).item() == pytest.approx(52.0)


@pytest.mark.parametrize("settings", [{}, {"block": 4}, {"per_row": True}])
def test_packed_products_are_masked_products(settings: Any) -> None:
    """CSR, rows of blocks and constant fan-in give what the masked matrix gives."""
    dense = nn.Linear(12, 8)
    layer = SparseLinear(dense, 0.4, **settings)
    x = torch.randn(2, 5, 12)
    wanted = F.linear(x, layer.matrix.dense(), dense.bias)
    torch.testing.assert_close(layer.eval()(x), wanted)  # packs for itself
    layer.matrix.export()
    torch.testing.assert_close(layer(x), wanted)
    torch.testing.assert_close(layer.train()(x), wanted)
    part = layer.eval().rows(x, 4, 8)
    torch.testing.assert_close(part, wanted[..., 4:])


@pytest.mark.parametrize(
    ("kernel", "stride", "padding"), [(3, 1, 1), (3, 2, 1), (1, 1, 0), (1, 2, 0)]
)
@pytest.mark.parametrize("block", [1, 4])
def test_sparse_convolutions_are_masked_ones(
    kernel: int, stride: int, padding: int, block: int
) -> None:
    """im2col times the packed kernel is the convolution with the masked kernel."""
    layer = SparseConv2d(nn.Conv2d(4, 8, kernel, stride, padding), 0.5, block=block)
    x = torch.randn(3, 4, 7, 6)
    wanted = layer.train()(x)
    layer.matrix.export()
    torch.testing.assert_close(layer.eval()(x), wanted)


def test_only_stored_elements_are_multiplied_and_kept() -> None:
    """Executed FLOPs are 2 per stored element and row; memory holds values and places alone."""
    # 16 x 16 at density 0.25: 64 elements, or 4 blocks of 4 x 4 (1 of 4 in each row of blocks).
    for settings, num_places in (({}, 64 + 16), ({"block": 4}, 4)):
        layer = SparseLinear(nn.Linear(16, 16), 0.25, **settings).eval()
        layer.matrix.export()
        assert count(layer, torch.randn(3, 5, 16), strict=True).total == 2 * 15 * 64
        assert sum(p.numel() for p in layer.parameters()) == 64 + 16  # and the bias
        assert sum(b.numel() for b in layer.buffers()) == num_places
    # A kernel of 8 x (4 x 3 x 3) at 0.25: 72 elements at each of 6 x 5 places.
    conv = SparseConv2d(nn.Conv2d(4, 8, 3, padding=1), 0.25).eval()
    conv.matrix.export()
    assert count(conv, torch.randn(2, 4, 6, 5), strict=True).total == 2 * 72 * 60


def test_exported_weights_load_into_an_untrained_model(tiny) -> None:
    """The state of an exported model makes a new one equal to it."""
    method = RigL()
    model = method.build(tiny.spec, tiny.backbone).eval()
    method.calibrate(model, [])
    other = method.build(tiny.spec, tiny.backbone).eval()
    other.load_state_dict(model.state_dict())
    batch = tiny.batch(3)
    assert torch.equal(other(batch).logits, model(batch).logits)


def test_all_layers_together_store_their_share(tiny_text, tiny_image) -> None:
    """ERK and a uniform density store the target, up to half an element per layer."""
    for distribution in ("erk", "uniform"):
        method = RigL(sparsity=0.8, distribution=distribution)
        for tiny, backbone in (
            (tiny_text, tiny_text.backbone),
            (tiny_image, ResNet([1, 1], [8, 16])),
        ):
            found = list(matrices(method.build(tiny.spec, backbone)))
            sizes = [m.num_rows * m.num_inputs for m in found]
            assert sum(m.num_stored for m in found) == pytest.approx(
                0.2 * sum(sizes), abs=len(found) / 2
            )


def test_masks_agree_in_all_processes(monkeypatch) -> None:
    """Two processes with other shares of a batch grow the same: by the sum of their gradients."""
    one = SparseMatrix(torch.randn(6, 6), 0.3)
    two = deepcopy(one)
    gradients = torch.randn(2, 6, 6)
    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    method, clock = RigL(drop=1.0, end=1.0), Clock(2, 1.0)
    for matrix, own, others in ((one, *gradients), (two, *gradients.flip(0))):
        monkeypatch.setattr(
            distributed, "all_reduce", lambda tensor, others=others: tensor.add_(others)
        )
        matrix.dense_gradient = own.clone()
        method._update(matrix, 0.0, clock)
    assert one.mask is not None
    assert two.mask is not None
    assert torch.equal(one.mask, two.mask)
    # Random growth draws by a seed that distributed training sends to all.
    assert torch.equal(deepcopy(clock).draw(one.mask), clock.draw(one.mask))


def test_masks_change_as_often_as_set() -> None:
    """20 steps, 5 updates until 0.75: they are due at 0.15, 0.3, 0.45, 0.6, and none at the end."""
    clock = Clock(5, 0.75)
    announced, due = [], []
    for step in range(1, 21):
        expected = clock.is_next
        if clock.tick(step / 20):
            due.append(step)
            announced.append(expected)
    assert due == [3, 6, 9, 12]
    assert all(announced)  # the backward pass before an update keeps the dense gradient


def test_published_training_flops() -> None:
    """f_S = 1, f_D = 10, T = 9 steps between updates: (3 x 9 + 2 + 10) / 10 = 3.9."""
    model = nn.Module()
    model.clock = Clock(num_updates=10, end=0.9)
    model.clock.num_steps = 100
    assert RigL(num_updates=10, end=0.9).training_flops(model, 1.0, 10.0) == pytest.approx(3.9)
    assert RigL(growth="random").training_flops(model, 1.0, 10.0) == 3.0
    assert RigL(growth="none").training_flops(model, 1.0, 10.0) == 3.0
    # Forward and the inputs' gradient with what is stored, the weights' with twice as much.
    assert RigL(growth="top_kast").training_flops(model, 1.0, 10.0) == 4.0


def test_impossible_settings_are_refused(tiny_text) -> None:
    """A sparsity of 1, and blocks that do not divide a matrix: ValueError with a way out."""
    with pytest.raises(ValueError, match=r"sparsity.*must be at least 0 and below 1"):
        RigL(sparsity=1.0)
    with pytest.raises(ValueError, match="does not fall into blocks of 5 x 5: choose a block"):
        RigL(block=5).build(tiny_text.spec, tiny_text.backbone)


def test_a_first_mask_stores_at_least_one_unit() -> None:
    """A density that rounds to nothing keeps one unit: no layer is without weights."""
    assert int(first_mask(3, 4, 0.01).sum()) == 3
    assert math.isclose(float(first_mask(1, 1000, 0.1).sum()), 100)
