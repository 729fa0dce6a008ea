"""The narrow networks inside a trunk: the first channels of every layer, heads and hidden units.

Convolutional trunks (Yu et al. 2019, Slimmable Neural Networks): every layer keeps `width` of its
channels, and has a batch norm of its own. Transformers: the residual stream keeps its width D, so
that stem, norms and head are shared; every head keeps its first `width` channels and every
feed-forward layer its first `width` hidden units.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from torch import nn

from bench.types import Batch, Unsupported
from methods.backbone.resnet import PadShortcut
from methods.parts.widths.sliced_layers import Kept, SlicedConv2d, SlicedLinear
from methods.trunk.attention import Attention
from methods.trunk.feedforward import FeedForward, GatedFeedForward
from methods.trunk.positions import Rotary
from methods.trunk.state import State
from methods.trunk.trunk import Trunk
from methods.trunk.views import cut_norm, twin, view


def narrow(trunk: Trunk, width: float) -> Trunk:
    """A view of `trunk` with the share `width` of its channels; shares every weight that it uses.

    Raises Unsupported where a layer has no narrower form, or `width` leaves no whole channels.
    """
    if not trunk.tokens:
        _refuse_scales(trunk)
    new = view(trunk, _NarrowTokens(width) if trunk.tokens else _NarrowMaps(trunk, width))
    if new is trunk:
        raise Unsupported("no layer of this trunk has a narrower form: it cannot be slimmed")
    return new


@torch.no_grad()
def _refuse_scales(trunk: Trunk) -> None:
    """Raises Unsupported where layers read the joined channels of several others."""
    blank = torch.zeros(1, *trunk.spec.input_shape, device="meta")
    state = deepcopy(trunk.stem).to("meta").eval()(Batch(blank, blank))
    if type(state) is not State:
        raise Unsupported("maps of several scales join the channels of several layers: no slices")


def kept_channels(channels: int, width: float) -> int:
    """Channels that `width` keeps of `channels`: rounded, at least one."""
    return max(1, round(channels * width))


class _NarrowMaps:
    """Replaces the layers of a convolutional trunk."""

    def __init__(self, trunk: Trunk, width: float) -> None:
        self.width = width
        # The image keeps its channels, and the last layer all classes.
        self.first = next((m for m in trunk.stem.modules() if isinstance(m, nn.Conv2d)), None)
        self.last = {m for m in trunk.head.modules() if isinstance(m, nn.Linear)}

    def __call__(self, module: nn.Module) -> nn.Module | None:
        if isinstance(module, nn.Conv2d):
            if 1 < module.groups < module.in_channels:
                raise Unsupported(f"a convolution in {module.groups} groups cannot be sliced")
            inputs = self._kept(module.in_channels, whole=module is self.first)
            return SlicedConv2d(module, self._kept(module.out_channels), inputs)
        if isinstance(module, nn.Linear):
            outputs = self._kept(module.out_features, whole=module in self.last)
            return SlicedLinear(module, outputs, self._kept(module.in_features))
        if isinstance(module, nn.BatchNorm2d):
            return cut_norm(module, kept_channels(module.num_features, self.width))
        if isinstance(module, PadShortcut):
            before = kept_channels(module.inputs, self.width)
            return PadShortcut(before, kept_channels(module.outputs, self.width), module.stride)
        if next(module.parameters(recurse=False), None) is not None:
            raise Unsupported(f"{type(module).__name__} has no narrower form")
        return None

    def _kept(self, channels: int, *, whole: bool = False) -> Kept:
        return Kept(channels if whole else kept_channels(channels, self.width))


class _NarrowTokens:
    """Replaces the attention and feed-forward layers of a transformer."""

    def __init__(self, width: float) -> None:
        self.width = width

    def __call__(self, module: nn.Module) -> nn.Module | None:
        if isinstance(module, Attention):
            return self._attention(module)
        if isinstance(module, FeedForward | GatedFeedForward):
            return self._feed_forward(module)
        return None

    def _feed_forward(self, layer: FeedForward | GatedFeedForward) -> nn.Module:
        new: Any = twin(layer)
        hidden = Kept(kept_channels(layer.hidden, self.width))
        new.hidden = len(hidden)
        for name in ("gate", "up"):
            if hasattr(layer, name):
                full = getattr(layer, name)
                setattr(new, name, SlicedLinear(full, hidden, Kept(full.in_features)))
        new.down = SlicedLinear(layer.down, Kept(layer.down.out_features), hidden)
        return new

    def _attention(self, layer: Attention) -> nn.Module:
        """Every head with its first channels: `dim` is then the width of all heads together."""
        head_dim = layer.dim // layer.num_heads
        # Rotary positions pair channel i with i + d / 2: both halves of a head keep their first.
        halves = 1 if layer.rotary is None else 2
        narrow_dim = self._head_dim(head_dim, halves)
        new: Any = twin(layer)
        size = narrow_dim // halves
        num_heads = layer.num_heads + 2 * layer.num_kv_heads  # queries, keys and values
        rows = Kept(size, num_heads * halves)
        new.qkv = SlicedLinear(layer.qkv, rows, Kept(layer.qkv.in_features))
        columns = Kept(size, layer.num_heads * halves)
        new.out = SlicedLinear(layer.out, Kept(layer.out.out_features), columns)
        new.dim, new.kv_dim = narrow_dim * layer.num_heads, narrow_dim * layer.num_kv_heads
        if layer.rotary is not None:
            new.rotary = _narrow_rotary(layer.rotary, size)
        return new

    def _head_dim(self, head_dim: int, multiple: int) -> int:
        """Channels of a narrow head. Raises Unsupported unless they are whole, and in pairs."""
        wanted = self.width * head_dim
        size = round(wanted)
        if abs(size - wanted) > 1e-6 or size % multiple or not size:
            kind = "an even number of" if multiple > 1 else "a whole number of"
            raise Unsupported(
                f"width {self.width:g} of heads with {head_dim} channels is not {kind} channels: "
                "the width must be a multiple of the heads"
            )
        return size


def _narrow_rotary(rotary: Rotary, num_angles: int) -> nn.Module:
    """The angles of the first `num_angles` channels of each half, as the full heads have them."""
    new = twin(rotary)
    new._buffers = {k: v[:, :num_angles] for k, v in rotary._buffers.items() if v is not None}
    return new
