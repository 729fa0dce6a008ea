"""Tiny tasks of every kind: shapes and random data, so that a contract costs milliseconds.

Their backbones are those that are installed, made small by the names of their fields.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bench import plugins
from bench.types import Batch, Output, TaskSpec

# Primes, and a power of two: a mixed-up axis changes a shape instead of fitting by accident.
NUM_CLASSES, VOCABULARY, LENGTH = 5, 11, 16
QUICKEST = ("transformer", "resnet")  # tried first: for tokens, and for feature maps
# Fields that size a backbone; what a backbone does not have is left out.
SIZES = {
    "dim": 16,
    "depth": 4,
    "num_heads": 2,
    "hidden_multiple": 2.0,
    "image_stride": 2,
    "width": 8,
    "blocks_per_stage": 2,
}


@dataclass(frozen=True)
class Tiny:
    """A task that exists in shapes only: 16 tokens at most, 8 x 8 pixels, 8 bands x 6 frames."""

    spec: TaskSpec

    def batch(self, num_samples: int, seed: int = 0) -> Batch:
        """Random inputs and targets."""
        # A generator of its own: data must not depend on what a model drew before.
        generator = torch.Generator().manual_seed(seed)

        def symbols(high: int, *shape: int) -> Tensor:
            return torch.randint(high, (num_samples, *shape), generator=generator)

        spec = self.spec
        if spec.kind in ("image", "audio"):
            inputs = torch.randn(num_samples, *spec.input_shape, generator=generator)
            return Batch(inputs, symbols(spec.num_outputs))
        if spec.kind == "seq2seq":
            return self._pairs(symbols)
        tokens = symbols(VOCABULARY, spec.input_shape[0] + 1)
        if spec.causal:
            return Batch(tokens[:, :-1], tokens[:, 1:])
        # At least 4 real tokens; `only_padding` tries samples with none.
        lengths = torch.randint(4, LENGTH + 1, (num_samples, 1), generator=generator)
        real = torch.arange(spec.input_shape[0]) < lengths
        return Batch(tokens[:, :-1], symbols(spec.num_outputs), mask=real)

    def _pairs(self, symbols: Any) -> Batch:
        """Padded sources, and targets shifted right for the decoder."""
        assert self.spec.target_length is not None
        source, target = symbols(VOCABULARY, LENGTH), symbols(VOCABULARY, self.spec.target_length)
        # Symbol 0 begins every target: the decoder predicts a token from those before it.
        start = torch.zeros_like(target[:, :1])
        real = torch.arange(LENGTH) < symbols(LENGTH - 3, 1) + 4
        return Batch(
            source, target, mask=real, decoder_inputs=torch.cat([start, target], 1)[:, :-1]
        )

    def criterion(self, output: Output, batch: Batch) -> Tensor:
        """Cross-entropy over classes or over positions."""
        return F.cross_entropy(output.logits.flatten(0, -2), batch.targets.flatten())


TINY = {
    "image": Tiny(TaskSpec("tiny-image", "image", (1, 8, 8), NUM_CLASSES)),
    "audio": Tiny(TaskSpec("tiny-audio", "audio", (8, 6), NUM_CLASSES)),
    "text": Tiny(
        TaskSpec("tiny-text", "tokens", (LENGTH,), VOCABULARY, vocab_size=VOCABULARY, causal=True)
    ),
    "labels": Tiny(
        TaskSpec("tiny-labels", "tokens", (LENGTH,), NUM_CLASSES, vocab_size=VOCABULARY)
    ),
    "pairs": Tiny(
        TaskSpec(
            "tiny-pairs",
            "seq2seq",
            (LENGTH,),
            VOCABULARY,
            vocab_size=VOCABULARY,
            target_length=8,
        )
    ),
}


def tiny_backbones() -> dict[str, Any]:
    """Every installed backbone, small; broken plugins left out, the quickest of a kind first."""
    found = {}
    for name, plugin in plugins.choices("backbone").items():
        try:
            found[name] = shrink(plugin.load())
        except plugins.BrokenPlugin:  # of another distribution: the method is what is tried
            continue
    order = [*QUICKEST, *sorted(found)]
    return dict(sorted(found.items(), key=lambda item: order.index(item[0])))


def shrink(cls: Any) -> Any:
    """A backbone of class `cls` with the sizes that it has a field for made small."""
    names = {field.name for field in dataclasses.fields(cls)}
    return cls(**{name: size for name, size in SIZES.items() if name in names})
