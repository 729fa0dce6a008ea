"""What travels between tasks and models: the description of a task, batches, outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from bench.values import encodable

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Kind = Literal["image", "tokens", "seq2seq", "audio"]
Split = Literal["train", "calibration", "test"]
Direction = Literal["higher", "lower"]
Point = Mapping[str, float | int | str]  # one operating point, e.g. {"threshold": 0.9}


class Unsupported(Exception):
    """Raised by a method or backbone for what it cannot do; the reason becomes a `skipped` row."""

    def __str__(self) -> str:
        return encodable(super().__str__())


@dataclass(frozen=True)
class TaskSpec:
    """What a model must know about a task to be built.

    `input_shape` is one sample's, without the batch: image (channels, height, width), tokens
    (length,), audio (mel bands, frames), seq2seq (source length,).
    `num_outputs` counts classes, or the vocabulary of what is predicted.
    `causal` is true where position t of a token task predicts token t + 1 (language modelling);
    false where one label belongs to the whole sample.
    """

    name: str
    kind: Kind
    input_shape: tuple[int, ...]
    num_outputs: int
    vocab_size: int | None = None  # of the input tokens; None for images and audio
    causal: bool = False
    target_length: int | None = None  # seq2seq: decoder positions
    decoder_padding: int | None = None  # seq2seq: the symbol that fills up decoder inputs
    symbols: tuple[str, ...] = ()  # what each token (seq2seq: of the decoder) is written as


@dataclass(frozen=True)
class Batch:
    """A batch of real samples. Every tensor's first dimension is the sample."""

    inputs: Tensor  # image [B, channels, height, width]; tokens [B, T]; audio [B, mels, frames]
    targets: Tensor  # [B] classes, or [B, T] tokens; -100 marks positions without a target
    mask: Tensor | None = None  # [B, T] bool, true where the input is real; None: all real
    decoder_inputs: Tensor | None = None  # [B, T] seq2seq only: the targets shifted right

    def __len__(self) -> int:
        return int(self.inputs.shape[0])

    def map(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """The same batch with `change` applied to every tensor that is there."""
        names = ("inputs", "targets", "mask", "decoder_inputs")
        values = {name: getattr(self, name) for name in names}
        return replace(self, **{k: change(v) for k, v in values.items() if v is not None})

    def to(self, device: torch.device | str) -> Batch:
        """The batch on `device`."""
        return self.map(lambda tensor: tensor.to(device))

    def select(self, index: Tensor) -> Batch:
        """The samples that `index` [n] names, in that order."""
        return self.map(lambda tensor: tensor.index_select(0, index))


class Output(NamedTuple):
    """What every model returns."""

    logits: Tensor  # [B, C], or [B, T, C] where each position is predicted
    aux_loss: Tensor | float = 0.0  # already weighted; added to the criterion
    stats: Mapping[str, Any] = MappingProxyType({})  # e.g. exit logits for a method's own loss


Batches = Iterator[Batch] | Iterable[Batch]
