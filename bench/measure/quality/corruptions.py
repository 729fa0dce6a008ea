"""Harder inputs than a model was trained for: corruptions at five severities, and garbage.

    corrupt(batch, "noise", severity=3, seed=0)    the same question, harder to read
    garbage(batch, seed=0)                         nothing to read: no answer is right

Severities 1 to 5 in the manner of ImageNet-C (Hendrycks and Dietterich 2019), for inputs normalised
to about mean 0 and deviation 1. Targets stay what they were.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from bench.types import Batch, Corruption, Kind, Task, extras_of

NO_TARGET = -100  # as in bench.types.Batch
SEVERITIES = (1, 2, 3, 4, 5)
KINDS: dict[Kind, tuple[str, ...]] = {
    "image": ("noise", "blur", "contrast", "shift"),
    "tokens": ("substitution",),
    "seq2seq": ("substitution",),
    "audio": ("background",),
}


def corrupt(batch: Batch, kind: str, severity: int, seed: int) -> Batch:
    """`batch` with its inputs corrupted; the same seed and batch give the same result.

    image: noise, blur, contrast, shift; tokens and seq2seq: substitution; audio: background.
    Raises ValueError for an unknown kind or severity.
    """
    if kind not in _CORRUPTIONS:
        raise ValueError(f"no corruption {kind!r}; there are {', '.join(_CORRUPTIONS)}")
    if severity not in SEVERITIES:
        raise ValueError(f"severity is one of 1 to 5, not {severity}")
    generator = torch.Generator().manual_seed(seed)
    return replace(batch, inputs=_CORRUPTIONS[kind](batch, severity, generator))


def corruptions(task: Task) -> Mapping[str, Corruption]:
    """The corruptions of a task by name: those of its extras, or else those of its kind."""
    own = extras_of(task).corruptions
    if own is not None:
        return own()
    return {name: _named(name) for name in KINDS[task.spec.kind]}


def _named(name: str) -> Corruption:
    return lambda batch, severity, seed: corrupt(batch, name, severity, seed)


def garbage(batch: Batch, seed: int) -> Batch:
    """Inputs without content: Gaussian noise, or the batch's own symbols in random order.

    Every target becomes -100: no answer is right.
    """
    generator = torch.Generator().manual_seed(seed)
    inputs = batch.inputs
    if inputs.is_floating_point():
        # Mean and deviation of the batch: brightness alone must not give the garbage away.
        inputs = inputs.mean() + inputs.std() * _normal(inputs, generator)
    else:
        inputs = torch.where(_real(batch), _symbols(batch, generator), inputs)
    return replace(batch, inputs=inputs, targets=torch.full_like(batch.targets, NO_TARGET))


def _noise(batch: Batch, severity: int, generator: Generator) -> Tensor:
    deviation = (0.2, 0.4, 0.6, 0.9, 1.2)[severity - 1]  # of inputs of about deviation 1
    return batch.inputs + deviation * _normal(batch.inputs, generator)


def _blur(batch: Batch, severity: int, generator: Generator) -> Tensor:
    """Binomial blur (1 2 1) / 4 along both axes, `severity` times: deviation sqrt(severity / 2)."""
    line = batch.inputs.new_tensor([0.25, 0.5, 0.25])
    # Depthwise: every channel by itself, its edge repeated so that borders do not darken.
    channels = batch.inputs.shape[1]
    kernel = (line[:, None] * line).expand(channels, 1, 3, 3)
    image = batch.inputs  # [B, channels, height, width]
    for _ in range(severity):
        image = F.conv2d(F.pad(image, (1, 1, 1, 1), mode="replicate"), kernel, groups=channels)
    return image


def _contrast(batch: Batch, severity: int, generator: Generator) -> Tensor:
    """Brightness drawn towards each image's mean."""
    left = (0.75, 0.55, 0.4, 0.28, 0.18)[severity - 1]
    mean = batch.inputs.mean((1, 2, 3), keepdim=True)
    return mean + left * (batch.inputs - mean)


def _shift(batch: Batch, severity: int, generator: Generator) -> Tensor:
    """Each image moved by up to `severity` pixels along both axes; its edge is drawn out.

    By any number of them: a move of exactly 4 is none to a network of strides or patches of 4.
    """
    height, width = batch.inputs.shape[2:]
    wide = F.pad(batch.inputs, (severity,) * 4, mode="replicate")  # [B, channels, H + 2s, W + 2s]
    corners = torch.randint(2 * severity + 1, (len(batch), 2), generator=generator)
    moved = [
        image[:, top : top + height, left : left + width]
        for image, (top, left) in zip(wide, corners.tolist(), strict=True)
    ]
    return torch.stack(moved) if moved else batch.inputs  # stack() refuses an empty list


def _substitution(batch: Batch, severity: int, generator: Generator) -> Tensor:
    """A share of the symbols replaced by others that occur in the batch, as often as they occur."""
    share = (0.02, 0.05, 0.1, 0.2, 0.3)[severity - 1]
    hit = torch.rand(batch.inputs.shape, generator=generator) < share
    # Padding stays padding: a model that masks it would never see the change.
    hit = hit.to(batch.inputs.device) & _real(batch)
    return torch.where(hit, _symbols(batch, generator), batch.inputs)


def _background(batch: Batch, severity: int, generator: Generator) -> Tensor:
    """Noise under a log spectrogram, where the louder of two sounds masks the other.

    log(exp a + exp b) is close to max(a, b) (Nadas, Nahamoo and Picheny 1989).
    """
    level = (-0.5, 0.0, 0.5, 1.0, 1.5)[severity - 1]
    return batch.inputs.maximum(level + 0.3 * _normal(batch.inputs, generator))


def _normal(like: Tensor, generator: Generator) -> Tensor:
    """Gaussian noise, the same on every device."""
    # Drawn on the CPU: a GPU's generator gives other numbers for the same seed.
    return torch.randn(like.shape, generator=generator).to(like)


def _real(batch: Batch) -> Tensor:
    """Which symbols are not padding, bool [B, T]."""
    if batch.mask is not None:
        return batch.mask
    return torch.ones_like(batch.inputs, dtype=torch.bool)


def _symbols(batch: Batch, generator: Generator) -> Tensor:
    """Symbols drawn from all real ones of the batch, [B, T]."""
    there = batch.inputs[_real(batch)]  # [N]; frequent symbols are drawn as often as they occur
    if not len(there):
        return batch.inputs
    drawn = torch.randint(len(there), batch.inputs.shape, generator=generator)
    return there[drawn.to(there.device)]


_CORRUPTIONS: dict[str, Callable[[Batch, int, Generator], Tensor]] = {
    "noise": _noise,
    "blur": _blur,
    "contrast": _contrast,
    "shift": _shift,
    "substitution": _substitution,
    "background": _background,
}
