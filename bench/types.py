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

from bench.values import (
    FINITE,
    Range,
    as_named_numbers,
    as_named_texts,
    as_number,
    as_numbers,
    as_text,
    as_whole,
    encodable,
)
from bench.values import OneOf as OneOf  # plugins import these and Range from here
from bench.values import check_fields as check_fields

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from bench.routing import Cost

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

    Numbers of numpy and torch become floats. What the model scores (`value`, `per_sample`, `more`)
    may be NaN: the record then holds a missing number with the reason. Raises TypeError or
    ValueError, naming the field, for what is not a number and for constants that are not finite.
    """

    value: float
    unit: str
    direction: Direction
    per_sample: Sequence[float] | None = None
    chance: float | None = None
    references: Mapping[str, float] = field(default_factory=dict)
    more: Mapping[str, float] = field(default_factory=dict)
    more_units: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.direction not in ("higher", "lower"):
            raise ValueError(f"Quality.direction is {self.direction!r}: choose 'higher' or 'lower'")
        _set(
            self,
            value=as_number("Quality.value", self.value),
            unit=as_text("Quality.unit", self.unit),
            references=as_named_numbers("Quality.references", self.references, FINITE),
            more=as_named_numbers("Quality.more", self.more),
            more_units=as_named_texts("Quality.more_units", self.more_units),
        )
        if unknown := sorted(self.more_units.keys() - self.more.keys()):
            raise ValueError(f"Quality.more_units names {unknown}, but Quality.more does not")
        if self.per_sample is not None:
            _set(self, per_sample=as_numbers("Quality.per_sample", self.per_sample))
        if self.chance is not None:
            _set(self, chance=as_number("Quality.chance", self.chance, FINITE))

    def beats(self, reference: float) -> bool:
        """Whether the value is strictly better than `reference`."""
        return self.value > reference if self.direction == "higher" else self.value < reference


def _set(frozen: Any, **values: Any) -> None:
    """Replace fields of a frozen dataclass, which its own `__post_init__` alone may do."""
    for name, value in values.items():
        object.__setattr__(frozen, name, value)


@dataclass(frozen=True)
class Recipe:
    """How a task is trained unless the experiment says otherwise (AdamW, one-cycle).

    Raises TypeError or ValueError, naming the field, for what cannot be trained with.
    """

    steps: int
    batch_size: int
    lr: float
    weight_decay: float = 0.01
    warmup_share: float = 0.1

    def __post_init__(self) -> None:
        _set(
            self,
            steps=as_whole("Recipe.steps", self.steps, Range(0)),
            batch_size=as_whole("Recipe.batch_size", self.batch_size, Range(1)),
            lr=as_number("Recipe.lr", self.lr, Range(gt=0)),
            weight_decay=as_number("Recipe.weight_decay", self.weight_decay, Range(0)),
            warmup_share=as_number("Recipe.warmup_share", self.warmup_share, Range(0, 1)),
        )


class Model(Protocol):
    """A built model: an nn.Module that maps a Batch to an Output."""

    def __call__(self, batch: Batch) -> Output: ...


class Criterion(Protocol):
    """A task's training loss, a scalar tensor."""

    def __call__(self, output: Output, batch: Batch) -> Tensor: ...


Corruption = Callable[[Batch, int, int], Batch]  # (batch, severity 1 to 5, seed) -> harder batch


@dataclass(frozen=True)
class Extras:
    """What a task offers beyond training and scoring. All of it is optional, none loads data.

    `split_sizes`: samples of each split where they are known without the data.
    `attributes(split)`: a number per sample in data order, [N] by name. `difficulty` (0 easy to 1
    hard) is correlated with the compute spent; `task` says which part of a mixture a sample is,
    `task_names` what these parts are called.
    `unseen()`: a batch to which no answer is right, such as classes never seen.
    `corruptions()`: harder inputs by name, in place of those that fit every task of the kind.
    """

    split_sizes: Mapping[Split, int] = field(default_factory=dict)
    attributes: Callable[[Split], Mapping[str, Tensor]] | None = None
    task_names: Sequence[str] = ()
    unseen: Callable[[], Batch] | None = None
    corruptions: Callable[[], Mapping[str, Corruption]] | None = None


def extras_of(task: object) -> Extras:
    """The extras that a task declares in its attribute `extras`; none where it has no such."""
    found = getattr(task, "extras", None)
    return found if isinstance(found, Extras) else Extras()


@runtime_checkable
class Task(Protocol):
    """Real data with a question. A dataclass of its settings; one file per task.

    Optional: `extras` (a property), see `Extras`.
    """

    version: int  # raised whenever data or scoring change

    @property
    def spec(self) -> TaskSpec: ...

    @property
    def recipe(self) -> Recipe: ...

    def data_hash(self) -> str:
        """Hash of the data: part of every trial's key.

        Of the content where that is small. Of a manifest where data are large or streamed: names,
        sizes and checksums of the files (`bench.tasks.parts.manifest`).
        """
        ...

    def num_samples(self, split: Split) -> int: ...

    def batches(self, split: Split, batch_size: int, *, seed: int | None = None) -> Iterable[Batch]:
        """One pass over a split; shuffled by `seed`, in data order without one.

        The train split drops a last ragged batch, the others keep it.
        """
        ...

    def criterion(self, output: Output, batch: Batch) -> Tensor: ...

    def evaluate(self, model: Model, batches: Iterable[Batch]) -> Quality: ...


class State(Protocol):
    """What travels through a trunk, and what methods may read and replace of it.

    `dataclasses.replace(state, x=...)` or `state.with_x(x)` changes a part. Names and shapes are
    those of `methods.trunk.state.State`, which a trunk of one's own may use.
    """

    x: Tensor  # [B, T, D]; feature maps [B, C, height, width] where the trunk has no tokens
    index: Tensor | None  # [B] the original sample of each row; None: the whole batch in order
    positions: Tensor | None  # [B, T] the original position of each token; None: 0..T-1
    mask: Tensor | None  # [B, T] bool, true for real tokens; None: all are
    sizes: Tensor | None  # [B, T] how many original tokens each stands for; None: one each
    aux_loss: Tensor | float

    def with_x(self, x: Tensor) -> State:
        """The same state with another x."""
        ...

    def select(self, rows: Tensor) -> State:
        """The samples in `rows` [n] (integers), everything carried along."""
        ...

    def take(self, tokens: Tensor) -> State:
        """The tokens `tokens` [B, K] of each sample (increasing), everything carried along."""
        ...


class Block(Protocol):
    """One block of a trunk; those over tokens have two halves that a method may call alone."""

    def __call__(self, state: Any) -> Any: ...

    def mix(self, state: Any, context: Any = None, mask: Tensor | None = None) -> Any:
        """The attention half: the tokens of `state` look at those of `context` (default: theirs).

        `view=AttentionView(...)` is filled with keys and class-token scores.
        """
        ...

    def feed(self, state: Any) -> Any:
        """The feed-forward half."""
        ...


class Trunk(Protocol):
    """A dense model as stem, blocks and head: what a backbone builds, or a foreign model becomes.

    Calling the trunk runs stem, every block and head. A method may drive the parts itself.
    """

    spec: TaskSpec
    dim: int  # width D of the state
    tokens: bool  # the state is a row of tokens; false where it is feature maps
    class_token: bool  # token 0 is no part of the input and the head reads it: never to be lost
    blocks: nn.ModuleList

    def stem(self, batch: Batch) -> Any: ...

    def head(self, state: Any) -> Tensor: ...

    def new_head(self, num_blocks: int | None = None) -> nn.Module:
        """A fresh head of the same form (state -> logits), for early exits.

        It fits the state after `num_blocks` blocks; None: after all of them.
        """
        ...

    def block_costs(self) -> Sequence[Cost]:
        """FLOPs of every block: of one token, and of each pair of tokens that attends.

        Where the state is feature maps: of one sample.
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

    All other hooks and flags are optional: `bench.plugins.hooks` lists them with their defaults,
    docs/reference/contract.md says when each is called.
    """

    def build(self, spec: TaskSpec, backbone: Backbone) -> Any: ...


Batches = Iterator[Batch] | Iterable[Batch]
