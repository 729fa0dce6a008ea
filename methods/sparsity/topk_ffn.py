"""Sparse activation: of each feed-forward layer only the k blocks of neurons that matter run.

Zhang et al. 2022, "MoEfication: Transformer Feed-forward Layers are Mixtures of Experts". A trained
layer's hidden neurons are grouped into equal blocks of similar neurons (balanced k-means on the
rows of W_up), which changes nothing yet. A small predictor, linear -> tanh -> linear, then scores
for each token how active every block will be, and only the k best blocks are computed, both of
their matrices.

Blocks and not single neurons: gathering scattered rows of a weight matrix copies them, and pays on
a CPU only below a quarter of the neurons and for one token; blocks are contiguous, and many tokens
that chose the same block share one matrix product.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.routing import decide, is_read, region
from bench.types import Backbone, Batch, Point, Range, TaskSpec, Unsupported
from methods.parts import dispatch
from methods.parts.gates import hard, top_k
from methods.parts.ranges import counts_up_to
from methods.parts.weights.clusters import balanced_clusters
from methods.trunk.feedforward import FeedForward
from methods.trunk.trunk import swap


@dataclass
class TopkFFN:
    """k of `num_blocks` blocks of neurons per token in every feed-forward layer.

    Starts from the trained dense model and is fine-tuned for `train_share` of its steps. Training
    masks: it computes every block, because the predictor learns from the activations of all;
    inference really skips. With k = num_blocks the layer is the dense one, exactly.
    `predictor_weight` scales the predictor's loss.
    """

    compaction = "tokens are grouped by block: each block of neurons runs the tokens that chose it"

    num_blocks: Annotated[int, Range(1)] = 8
    k: Annotated[int, Range(1)] = 2
    predictor_weight: Annotated[float, Range(0)] = 0.1
    train_share: Annotated[float, Range(0)] = 0.3
    open_is_dense = True  # all blocks of neurons: the dense layer

    def __post_init__(self) -> None:
        """Raises ValueError for more blocks per token than there are."""
        if self.k > self.num_blocks:
            raise ValueError(f"k={self.k}: there are {self.num_blocks} blocks")

    def build(self, spec: TaskSpec, backbone: Backbone) -> nn.Module:
        """The same from an untrained backbone."""
        return self._convert(backbone.build(spec))

    def convert(self, dense: Any, batches: Iterable[Batch]) -> nn.Module:
        """A copy of the trained model with its feed-forward layers in blocks."""
        return self._convert(deepcopy(dense))

    def _convert(self, model: nn.Module) -> nn.Module:
        """Raises ValueError where the width does not fit, Unsupported for other layers."""
        layer = count()
        num_layers = swap(
            model,
            FeedForward,
            lambda _, old: BlockFFN(
                old, self.num_blocks, self.k, self.predictor_weight, name=f"topk.{next(layer)}"
            ),
        )
        if num_layers == 0:
            raise Unsupported("topk_ffn needs feed-forward layers of the form W2 f(W1 x)")
        return model

    def points(self) -> list[Point]:
        """Blocks per token at inference, the trained number first."""
        return [{"k": k} for k in counts_up_to(self.num_blocks, self.k)]

    def set_point(self, model: nn.Module, point: Point) -> None:
        """Run `point["k"]` blocks per token from now on."""
        for module in model.modules():
            if isinstance(module, BlockFFN):
                module.k = int(point["k"])


class BlockFFN(nn.Module):
    """A feed-forward layer whose hidden neurons are grouped in blocks, of which k run per token."""

    def __init__(
        self, dense: FeedForward, num_blocks: int, k: int, weight: float, *, name: str = "topk"
    ) -> None:
        super().__init__()
        if dense.hidden % num_blocks:
            raise ValueError(f"{dense.hidden} neurons do not fall into {num_blocks} equal blocks")
        self.name, self.k, self.predictor_weight = name, k, weight
        rows = F.normalize(dense.up.weight.detach(), dim=1)  # [H, D]
        owner, centers = balanced_clusters(rows, num_blocks)
        # A stable sort keeps neurons of a block in their old order: the layout is deterministic.
        self.blocks = Blocks(dense, owner.argsort(stable=True), num_blocks)
        self.bias = nn.Parameter(dense.down.bias.detach().clone())
        self.predictor = Predictor(centers)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """[B, T, D] -> [B, T, D], with the predictor's weighted loss in training."""
        with region("router"):
            # Detached: the predictor's loss must not shape the features that it predicts from.
            score = self.predictor(x.detach())  # [B, T, E]
            run = top_k(score, self.k)
            if is_read():
                run = decide(
                    self.name,
                    axes=("sample", "token", "neurons"),
                    probabilities=score.sigmoid(),
                    run=run,
                    cost=self.blocks.flops_per_row,
                )
        if self.training:
            return self._run_masked(x, score, run)
        # Without weights: the sum over all blocks is the dense layer, not a mixture.
        y = dispatch.mix(x.flatten(0, 1), run.flatten(0, 1), None, self.blocks)
        return y.view_as(x) + self.bias

    def _run_masked(self, x: Tensor, score: Tensor, run: Tensor) -> tuple[Tensor, Tensor]:
        """All blocks computed, those that do not run multiplied with 0."""
        hidden = self.blocks.hidden_all(x)  # [B, T, E, h]
        with torch.no_grad():  # how active each block is, as a share of the most active one
            mass = hidden.square().sum(-1)
            target = mass / mass.amax(-1, keepdim=True).clamp_min(1e-9)
        loss = F.binary_cross_entropy_with_logits(score, target.to(score.dtype))
        # 1 or 0 forward; backward, blocks that run give the predictor a gradient as well.
        value = run * hard(run, score.sigmoid())
        y = self.blocks.down_all(hidden * value[..., None].to(hidden.dtype))
        return y + self.bias, self.predictor_weight * loss


class Predictor(nn.Module):
    """Linear -> tanh -> linear, initialised with the block centres and the identity (MoEfication).

    The centres are scaled so that an input of a layer norm's length is inside tanh's slope.
    """

    def __init__(self, centers: Tensor) -> None:
        super().__init__()
        num_blocks, dim = centers.shape
        self.similarity = nn.Linear(dim, num_blocks, bias=False)
        self.score = nn.Linear(num_blocks, num_blocks)
        with torch.no_grad():
            self.similarity.weight.copy_(
                centers / dim**0.5
            )  # a layer norm's output has length D^1/2
            self.score.weight.copy_(torch.eye(num_blocks))
            self.score.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] -> scores [..., E]."""
        return self.score(self.similarity(x).tanh())


class Blocks(nn.Module):
    """The neurons of a dense layer in E blocks of h: the `Groups` of `dispatch.mix`."""

    def __init__(self, dense: FeedForward, order: Tensor, num_blocks: int) -> None:
        super().__init__()
        if dense.up.bias is None:
            raise Unsupported("topk_ffn needs feed-forward layers with biases")
        dim, per_block = dense.dim, dense.hidden // num_blocks
        self.activate = dense.activate
        with torch.no_grad():  # neurons permuted; stored as [inputs, outputs], as `Experts` does
            up = dense.up.weight[order].view(num_blocks, per_block, dim).transpose(1, 2)
            bias = dense.up.bias[order].view(num_blocks, per_block)
            down = dense.down.weight.T[order].view(num_blocks, per_block, dim)
        self.up = nn.Parameter(up.contiguous())  # [E, D, h]
        self.bias = nn.Parameter(bias.clone())  # [E, h]
        self.down = nn.Parameter(down.contiguous())  # [E, h, D]

    @property
    def flops_per_row(self) -> float:
        """FLOPs (2 x MAC) of one token in one block."""
        up, down = self.up.shape, self.down.shape
        return 2.0 * (up[1] * up[2] + down[1] * down[2])

    def hidden_all(self, x: Tensor) -> Tensor:
        """Activations of every block: [..., D] -> [..., E, h]."""
        up = self.up.transpose(0, 1).flatten(1)  # [D, H]
        return self.activate(x @ up + self.bias.flatten()).unflatten(-1, self.bias.shape)

    def down_all(self, hidden: Tensor) -> Tensor:
        """What the activations of all blocks contribute: [..., E, h] -> [..., D]."""
        return hidden.flatten(-2) @ self.down.flatten(0, 1)

    def each(self) -> Sequence[Callable[[Tensor], Tensor]]:
        """The blocks, each [n, D] -> [n, D]."""
        weights = zip(self.up.unbind(0), self.bias.unbind(0), self.down.unbind(0), strict=True)
        return [partial(_block, self.activate, *parts) for parts in weights]

    def can_sort(self, rows: Tensor) -> bool:
        """Whether one grouped GEMM serves rows of this dtype and width."""
        return dispatch.can_group(rows, self.up, self.down)

    def run_sorted(self, rows: Tensor, order: dispatch.Order) -> Tensor:
        """Each block on its part of `rows` [P, D] -> [P, D]."""
        hidden = dispatch.grouped_linear(rows, self.up, order.ends)
        hidden = self.activate(hidden + self.bias.index_select(0, order.groups))
        return dispatch.grouped_linear(hidden, self.down, order.ends)


def _block(
    activate: Callable[[Tensor], Tensor], up: Tensor, bias: Tensor, down: Tensor, rows: Tensor
) -> Tensor:
    """One block of neurons, [n, D] -> [n, D]; the output bias belongs to the layer."""
    return activate(torch.addmm(bias, rows, up)) @ down  # bias and product in one kernel
