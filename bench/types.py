"""The words of the house: what tasks, backbones and methods say to one another.

Letters in shape comments, here and everywhere: B samples, T tokens, D width, H hidden width,
E experts, C classes or vocabulary.

Nothing here imports torch at run time, so that reading and planning stay light.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

Kind = Literal["image", "tokens", "seq2seq", "audio"]
Split = Literal["train", "calibration", "test"]
Direction = Literal["higher", "lower"]
Point = Mapping[str, float | int | str]  # one operating point, e.g. {"threshold": 0.9}


class Unsupported(Exception):
    """Raised by a method or backbone for what it cannot do; the reason becomes a `skipped` row."""


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


@dataclass(frozen=True)
class Quality:
    """How well a model does on a task.

    `per_sample` holds one score per evaluated sample where the task has one, in data order, so
    that two methods can be compared pairwise. `chance` is what guessing reaches, `references`
    names trivial or classic baselines in the same unit. `more` holds further scores of the same
    evaluation and direction by name (BLEU beside exact match), in `unit` unless `more_units` says
    otherwise.
    """

    value: float
    unit: str
    direction: Direction
    per_sample: Sequence[float] | None = None
    chance: float | None = None
    references: Mapping[str, float] = field(default_factory=dict)
    more: Mapping[str, float] = field(default_factory=dict)
    more_units: Mapping[str, str] = field(default_factory=dict)

    def beats(self, reference: float) -> bool:
        """Whether the value is strictly better than `reference`."""
        return self.value > reference if self.direction == "higher" else self.value < reference


@dataclass(frozen=True)
class Recipe:
    """How a task is trained unless the experiment says otherwise (AdamW, one-cycle)."""

    steps: int
    batch_size: int
    lr: float
    weight_decay: float = 0.01
    warmup_share: float = 0.1


class Model(Protocol):
    """A built model: an nn.Module that maps a Batch to an Output."""

    def __call__(self, batch: Batch) -> Output: ...


class Criterion(Protocol):
    """A task's training loss, a scalar tensor."""

    def __call__(self, output: Output, batch: Batch) -> Tensor: ...


@runtime_checkable
class Task(Protocol):
    """Real data with a question. A dataclass of its settings; one file per task."""

    version: int  # raised whenever data or scoring change

    @property
    def spec(self) -> TaskSpec: ...

    @property
    def recipe(self) -> Recipe: ...

    def data_hash(self) -> str:
        """Content hash of the data: part of every trial's key."""
        ...

    def num_samples(self, split: Split) -> int: ...

    def batches(self, split: Split, batch_size: int, *, seed: int | None = None) -> Iterable[Batch]:
        """One pass over a split; shuffled by `seed`, in data order without one.

        The train split drops a last ragged batch, the others keep it.
        """
        ...

    def criterion(self, output: Output, batch: Batch) -> Tensor: ...

    def evaluate(self, model: Model, batches: Iterable[Batch]) -> Quality: ...


class Trunk(Protocol):
    """A dense model as stem, blocks and head: what a backbone builds.

    `state` carries what methods need to touch (see `methods.backbone`). Calling the trunk runs
    stem, every block and head. A method may drive the parts itself.
    """

    blocks: nn.ModuleList

    def stem(self, batch: Batch) -> Any: ...

    def head(self, state: Any) -> Tensor: ...

    def new_head(self, num_blocks: int | None = None) -> nn.Module:
        """A fresh head of the same form (state -> logits), for early exits.

        It fits the state after `num_blocks` blocks; None: after all of them.
        """
        ...

    def __call__(self, batch: Batch) -> Output: ...


class Backbone(Protocol):
    """A dense model family and size: a dataclass of its dimensions."""

    def build(
        self,
        spec: TaskSpec,
        *,
        ffn: Callable[[int, int], nn.Module] | None = None,
        attention: Callable[..., nn.Module] | None = None,
        block: Callable[..., nn.Module] | None = None,
    ) -> Any:
        """The trunk for `spec`. Raises Unsupported where the family cannot serve the task.

        `ffn(dim, hidden)` replaces every feed-forward layer: a module [B, T, D] -> [B, T, D], or
        -> ([B, T, D], aux_loss). `attention(dim, num_heads, causal=...)` replaces every token
        mixer, `block(index, make)` every block, where `make()` builds the dense one.
        """
        ...


class Method(Protocol):
    """An idea: a dataclass of hyper-parameters with `build(spec, backbone)`.

    Optional, looked up by name, each with a default (DESIGN: docs/reference/contract.md):
    `convert(dense, batches)`, `loss(model, batch, criterion, progress)`,
    `calibrate(model, batches)`, `after_step(model, progress)`, `param_groups(model, lr)`,
    `points()`, `set_point(model, point)`, and the attributes `train_share` (of the recipe's
    steps, 1.0), `batch_invariant` (True) and `compaction` (who runs together in a batch).
    """

    def build(self, spec: TaskSpec, backbone: Backbone) -> Any: ...


Batches = Iterator[Batch] | Iterable[Batch]
