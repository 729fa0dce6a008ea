"""What models are: trunks of blocks, backbones that build them, methods that change them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from bench.types.data import Batch, Output, TaskSpec

if TYPE_CHECKING:
    from torch import Tensor, nn

    from bench.routing import Cost


class Model(Protocol):
    """A built model: an nn.Module that maps a Batch to an Output."""

    def __call__(self, batch: Batch) -> Output: ...


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

    def mix(
        self, state: Any, context: Any = None, mask: Tensor | None = None, view: Any = None
    ) -> Any:
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
