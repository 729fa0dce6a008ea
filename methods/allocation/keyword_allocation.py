"""Keyword-driven allocation: keywords run every block, all other tokens a share of the blocks.

Which symbols are keywords is found first, from training data, and can be looked at (the buffer
`keywords`): those of the highest unigram surprisal -log2 p(w), or where a label belongs to the
sample those with the highest mutual information with the class, until they make up a stated share
of all tokens; or a user's list. Nothing is learned by the decisions, and equal tokens get equal
compute. The surprisal of a word as a measure of what it costs to process: Hale 2001, "A
probabilistic Earley parser as a psycholinguistic model".
"""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Annotated

from torch import Tensor

from bench.types import Backbone, Batch, Criterion, OneOf, Point, Range, TaskSpec
from methods.parts.allocation.keyword_model import KeywordModel, KeywordRule, runs_rest
from methods.parts.allocation.keywords import read_keywords
from methods.trunk.trunk import Trunk

__all__ = ["KeywordAllocation", "KeywordModel", "runs_rest"]

COUNTED = 0.2  # share of training in which symbols are counted, and every token is a keyword


@dataclass
class KeywordAllocation:
    """Tokens of a trained dense model by what they stand for; every pass skips, in training too.

    An operating point is `share`, that of the blocks which tokens run that are no keywords: the
    first of `shares` in training. `by`: auto is classes where one label belongs to a sample, else
    surprisal. `keyword_share`: of all tokens, how many are keywords. `keyword_file`: a text file
    with one keyword a line instead. Without training, held-out data are counted.
    """

    compaction = "before every block the tokens that run it are gathered"

    shares: list[Annotated[float, Range(0, 1)]] = field(
        default_factory=lambda: [0.5, 0.0, 0.25, 0.75, 1.0]
    )
    by: Annotated[str, OneOf("auto", "surprisal", "classes")] = "auto"
    keyword_share: Annotated[float, Range(gt=0, lt=1)] = 0.2
    keyword_file: str | None = None
    train_share: Annotated[float, Range(0)] = 0.3
    open_is_dense = True  # every token runs every block

    def __post_init__(self) -> None:
        """Raises ValueError without a share, and for a file without keywords."""
        if not self.shares:
            raise ValueError("shares is empty: give at least one, such as [0.5]")
        if self.keyword_file is not None:
            read_keywords(self.keyword_file)  # before anything is trained

    def build(self, spec: TaskSpec, backbone: Backbone) -> KeywordModel:
        """The untrained backbone; every token is a keyword until they are found."""
        return self._wrap(backbone.build(spec))

    def convert(self, dense: Trunk, batches: Iterable[Batch]) -> KeywordModel:
        """A copy of the trained trunk."""
        return self._wrap(deepcopy(dense))

    def _wrap(self, trunk: Trunk) -> KeywordModel:
        rule = KeywordRule(self.by, self.keyword_share, self.keyword_file)
        return KeywordModel(trunk, rule, self.shares[0])

    def loss(
        self, model: KeywordModel, batch: Batch, criterion: Criterion, progress: float
    ) -> Tensor:
        """The criterion; counts the batch's symbols at first, and then finds the keywords."""
        if not model.is_found:
            if progress < COUNTED or not model.has_counted:
                model.add(batch)
            else:
                model.find_keywords()
        output = model(batch)
        return criterion(output, batch) + output.aux_loss

    def calibrate(self, model: KeywordModel, batches: Iterable[Batch]) -> None:
        """Find the keywords where training has not: in held-out data, if none was counted."""
        if not model.is_found:
            for batch in batches if not model.has_counted else ():
                model.add(batch)
            model.find_keywords()

    def points(self) -> list[Point]:
        """One operating point per share of the blocks, the default first."""
        return [{"share": share} for share in self.shares]

    def set_point(self, model: KeywordModel, point: Point) -> None:
        """Let tokens that are no keywords run `point["share"]` of the blocks from now on."""
        model.share.fill_(float(point["share"]))
