"""MSDNet as the anytime backbone: what each exit costs is what its authors' model costs."""

from __future__ import annotations

import pytest
import torch

from bench.meters.flops.counter import count
from bench.types import Batch, TaskSpec
from methods.backbone.msdnet import DenseLayer, MSDNet, MultiScale
from methods.skipping.early_exit import EarlyExit
from tests.studies.backbone_sizes import backbone

CIFAR10 = TaskSpec("c", "image", (3, 32, 32), 10)
CIFAR100 = TaskSpec("c", "image", (3, 32, 32), 100)
IMAGENET = TaskSpec("i", "image", (3, 224, 224), 1000)


def _mmacs(net: MSDNet, spec: TaskSpec) -> list[float]:
    """Convolutions up to each exit with its own head only, in millions, to two digits."""
    with torch.device("meta"), torch.no_grad():
        trunk = net.build(spec).eval()
        inputs = torch.zeros(1, *spec.input_shape)
        counts = [count(trunk.stem, Batch(inputs, inputs))]
        costs = []
        for number, block in enumerate(trunk.blocks, start=1):
            counts.append(count(block, counts[-1].result))
            head = count(trunk.new_head(number).eval(), counts[-1].result)
            costs.append(sum(each.macs for each in counts) + head.macs)
    return [round(cost / 1e6, 2) for cost in costs]


@pytest.mark.parametrize(
    ("name", "spec", "expected"),
    [
        ("msdnet_cifar", CIFAR100, [14.97, 21.71, 28.79, 34.80, 41.69, 46.34, 51.89]),
        ("msdnet", CIFAR100, [6.79, 11.98, 21.94, 33.52, 45.95]),
        ("msdnet_imagenet_4", IMAGENET, [337.21, 654.73, 949.81, 1173.12, 1262.16]),
    ],
)
def test_exits_cost_what_the_authors_model_costs(name, spec, expected) -> None:
    """MMAC of convolutions and the own head, as counted on the released model.

    Its own counter adds ReLU, pooling, biases and all earlier heads. The middle exits of the last
    two networks are ours: of these only the first, or first, second and last, were counted there.
    """
    assert _mmacs(backbone(name), spec) == expected


@pytest.mark.parametrize(
    ("name", "spec", "params", "mmacs"),
    [("msdnet_cifar", CIFAR100, 3.07, None), ("msdnet_imagenet_4", IMAGENET, 24.0, 1355.61)],
)
def test_early_exit_makes_the_whole_msdnet(name, spec, params, mmacs) -> None:
    """With a head behind every block it has the released model's parameters (in millions).

    An input that never leaves pays every head: 1,355.61 MMAC, of which the released model's
    counter makes 1,360.53 with ReLU, pooling and biases (0.4 % more).
    """
    with torch.device("meta"), torch.no_grad():
        model = EarlyExit(every=1).build(spec, backbone(name))
        assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(params, rel=2e-3)
        if mmacs is not None:
            inputs = torch.zeros(1, *spec.input_shape)
            macs = count(model.train(), Batch(inputs, inputs)).macs
            assert macs / 1e6 == pytest.approx(mmacs, abs=0.005)


def test_scales_are_dropped_as_depth_grows() -> None:
    """Six layers, three scales: one is dropped from the third layer on, another from the fifth."""
    trunk = MSDNet(layers=[1] * 6, width=4, growth=4).build(CIFAR10).eval()
    state = trunk.stem(Batch(torch.randn(2, 3, 32, 32), torch.zeros(2)))
    num_scales = []
    for block in trunk.blocks:
        state = block(state)
        num_scales.append(1 + len(state.finer))
    assert num_scales == [3, 3, 2, 2, 1, 1]
    assert state.x.shape[2:] == (8, 8)  # the coarsest: 32 / 4


def test_a_dense_layer_keeps_what_it_got() -> None:
    """New channels come behind the old ones, at every scale: 4 + 6 and 8 + 12."""
    layer = DenseLayer([4, 8], [6, 12], [1, 2]).eval()
    maps = [torch.randn(1, 4, 8, 8), torch.randn(1, 8, 4, 4)]
    grown = layer(maps)
    assert [each.shape[1] for each in grown] == [10, 20]
    assert all(
        torch.equal(new[:, : old.shape[1]], old) for new, old in zip(grown, maps, strict=True)
    )


def test_selecting_samples_selects_every_scale() -> None:
    """Coarse and fine maps keep the same samples."""
    state = MultiScale(torch.arange(3.0).view(3, 1), finer=(torch.arange(3.0).view(3, 1) + 10,))
    chosen = state.select(torch.tensor([2, 0]))
    assert chosen.x.flatten().tolist() == [2.0, 0.0]
    assert chosen.finer[0].flatten().tolist() == [12.0, 10.0]
    assert chosen.select(torch.tensor([1])).index.tolist() == [0]


def test_unknown_stems_are_refused() -> None:
    """A stem that does not exist is named."""
    with pytest.raises(ValueError, match="medium"):
        MSDNet(stem="medium")
