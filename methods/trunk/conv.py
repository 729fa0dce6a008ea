"""Convolutional trunks: feature maps instead of tokens, and the layers that all families share.

    state = trunk.stem(batch)       # State: x [B, C, height, width]
    state = trunk.blocks[0](state)  # C, height and width change from block to block
    logits = trunk.head(state)      # [B, classes]

An image and a spectrogram (one channel) are both maps. These blocks have no `mix` and no `feed`:
replacements of feed-forward layers or attention are refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from bench.routing import Cost
from bench.types import Batch, TaskSpec, Unsupported
from methods.trunk.costs import layer_flops
from methods.trunk.state import State
from methods.trunk.stem import as_images
from methods.trunk.trunk import Trunk

MakeBlock = Callable[[], nn.Module]


class ConvTrunk(Trunk):
    """A trunk over feature maps. `widths`: channels of the state after 0, 1, ... all blocks.

    `make_head(channels)` gives a module State -> logits.
    """

    tokens = False

    def __init__(
        self,
        spec: TaskSpec,
        stem: nn.Module,
        blocks: list[nn.Module],
        widths: Sequence[int],
        make_head: Callable[[int], nn.Module],
    ) -> None:
        super().__init__(spec, widths[-1], stem, blocks, lambda: make_head(widths[-1]))
        self.widths = tuple(widths)
        self._make_head_for = make_head
        # Maps take the layout of the weights. Channels last was faster, or as fast, in every layer
        # that was measured; a slow dense baseline would flatter every method.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def new_head(self, num_blocks: int | None = None) -> nn.Module:
        """A fresh head for the maps after `num_blocks` blocks; None: after all of them."""
        head = self._make_head_for(self.widths[-1 if num_blocks is None else num_blocks])
        return head.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def block_costs(self) -> list[Cost]:
        """FLOPs (2 x MAC) of one sample in each block, from shapes alone."""
        # On the meta device nothing is computed, and batch norm statistics stay as they are.
        shadow = deepcopy(self).to("meta").eval()
        inputs = torch.zeros(1, *self.spec.input_shape, device="meta")
        state, costs = shadow.stem(Batch(inputs, inputs)), []
        for block in shadow.blocks:
            with torch.no_grad(), layer_flops(block) as calls:
                state = block(state)
            costs.append(Cost(element=float(sum(calls))))
        return costs


class MapStem(nn.Module):
    """`layers` on images [B, C, height, width] or on spectrograms [B, mels, frames]."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, batch: Batch) -> State:
        return State(self.layers(as_images(batch)))  # x [B, C, height, width]


class MapBlock(nn.Module):
    """A module that maps feature maps to feature maps, as a block State -> State."""

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, state: State) -> State:
        return replace(state, x=self.layers(state.x))


class PoolHead(nn.Module):
    """Logits [B, classes] of the mean over height and width."""

    def __init__(self, num_outputs: int, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, num_outputs)

    def forward(self, state: State) -> Tensor:
        return self.linear(state.x.mean((2, 3)))  # [B, C] -> [B, classes]


def num_channels(family: str, spec: TaskSpec) -> int:
    """Channels of the input. Raises Unsupported for all but images and spectrograms."""
    if spec.kind not in ("image", "audio"):
        raise Unsupported(f"{family} needs images or spectrograms, not {spec.kind}")
    return spec.input_shape[0] if spec.kind == "image" else 1


def refuse_replacements(family: str, **factories: Any) -> None:
    """Raises Unsupported where a method replaces layers that `family` does not have."""
    names = {"ffn": "feed-forward layers", "attention": "attention"}
    for name, factory in factories.items():
        if factory is not None:
            raise Unsupported(f"{family} has no {names[name]} to replace")


def conv_norm(
    inputs: int,
    outputs: int,
    kernel: int,
    *,
    stride: int = 1,
    groups: int = 1,
    activation: nn.Module | None = None,
) -> nn.Sequential:
    """Convolution (same size / stride, no bias), batch norm, and the activation if there is one."""
    layers: list[nn.Module] = [
        # No bias: the batch norm behind it subtracts the mean, and with it any bias.
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    return nn.Sequential(*layers, *([activation] if activation is not None else []))


def kept_strides(strides: Sequence[int], num_halvings: int) -> list[int]:
    """`strides` with only the last `num_halvings` of its 2s kept; earlier ones become 1.

    Raises ValueError where there are fewer, and for a negative number.
    """
    # The earliest go: on a small image they would leave the later layers hardly any places.
    most = list(strides).count(2)
    if not 0 <= num_halvings <= most:
        raise ValueError(f"num_halvings is one of 0 to {most}, not {num_halvings}")
    num_early = most - num_halvings
    halving = [place for place, stride in enumerate(strides) if stride == 2]  # increasing
    early = set(halving[:num_early])
    return [1 if place in early else stride for place, stride in enumerate(strides)]


def initialise(model: nn.Module) -> None:
    """Initialise convolutions with variance 2 / (outputs x kernel area) (He et al. 2015)."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def sample_flops(backbone: Any, spec: TaskSpec) -> int:
    """FLOPs (2 x MAC) of one sample in the trunk that `backbone` builds, from shapes alone."""
    # Built on the meta device: no weights are allocated or drawn for a candidate size.
    with torch.device("meta"), torch.no_grad():
        trunk = backbone.build(spec).eval()
        inputs = torch.zeros(1, *spec.input_shape)
        with layer_flops(trunk) as calls:
            trunk(Batch(inputs, inputs))
    return sum(calls)
