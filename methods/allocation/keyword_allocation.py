"""Keyword-driven allocation: keywords run every block, all other tokens a share of the blocks.

Which symbols are keywords is found first, from training data, and can be looked at (the buffer
`keywords`): those of the highest unigram surprisal -log2 p(w), or where a label belongs to the
sample those with the highest mutual information with the class, until they make up a stated share
of all tokens; or a user's list. Nothing is learned by the decisions, and equal tokens get equal
compute. The surprisal of a word as a measure of what it costs to process: Hale 2001, "A
probabilistic Earley parser as a psycholinguistic model".
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Annotated

import torch
from torch import Tensor, nn

from bench import routing
from bench.types import (
    Backbone,
    Batch,
    Criterion,
    OneOf,
    Output,
    Point,
    Range,
    TaskSpec,
    Unsupported,
)
from methods.parts.allocation.elements import Tokens
from methods.parts.allocation.keywords import SymbolCounts, find_symbols, pick, read_keywords
from methods.trunk.cache import Cache
from methods.trunk.decoding import greedy
from methods.trunk.trunk import Trunk

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
        return KeywordModel(backbone.build(spec), self)

    def convert(self, dense: Trunk, batches: Iterable[Batch]) -> KeywordModel:
        """A copy of the trained trunk."""
        return KeywordModel(deepcopy(dense), self)

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


class KeywordModel(nn.Module):
    """`trunk` whose tokens run blocks by their symbols. Raises Unsupported where there are none."""

    keywords: Tensor  # bool [V]
    found: Tensor
    share: Tensor

    def __init__(self, trunk: Trunk, settings: KeywordAllocation) -> None:
        super().__init__()
        spec = trunk.spec
        if spec.kind not in ("tokens", "seq2seq") or spec.vocab_size is None:
            raise Unsupported(f"keywords are symbols, and {spec.kind} tasks have none")
        has_label = spec.kind == "tokens" and not spec.causal
        if settings.by == "classes" and not has_label:
            raise Unsupported("by=classes needs one label for each sample: by=surprisal does not")
        self.by_classes = has_label and settings.by != "surprisal"
        self.trunk, self.settings = trunk, settings
        self.elements = Tokens(trunk, masks_in_training=False)
        # A decoder's tokens are those that it predicts.
        num_symbols = spec.num_outputs if spec.kind == "seq2seq" else spec.vocab_size
        self.counts = SymbolCounts(num_symbols, spec.num_outputs if self.by_classes else 0)
        self.register_buffer("keywords", torch.ones(num_symbols, dtype=torch.bool))
        self.register_buffer("found", torch.tensor(False))
        self.register_buffer("share", torch.tensor(settings.shares[0], dtype=torch.float64))
        self.listed = self._read_list() if settings.keyword_file is not None else None

    @property
    def is_found(self) -> bool:
        """Whether the keywords are known."""
        return bool(self.found)

    @property
    def has_counted(self) -> bool:
        """Whether any symbol was counted."""
        return bool(self.counts.occurrences.any())

    def add(self, batch: Batch) -> None:
        """Count the symbols of a batch."""
        real = batch.mask
        if batch.decoder_inputs is not None:
            padding = self.trunk.spec.decoder_padding
            real = None if padding is None else batch.decoder_inputs != padding
        self.counts.add(self._symbols(batch), real, batch.targets)

    def find_keywords(self) -> None:
        """Set `keywords` by what was counted, or by the list.

        Raises ValueError where no keyword of the list occurs in what was counted.
        """
        counts = self.counts
        if self.listed is None:
            scores = counts.class_information() if self.by_classes else counts.surprisal()
            chosen = pick(scores, counts.occurrences, self.settings.keyword_share)
        else:
            chosen = torch.zeros_like(self.keywords)
            chosen[self.listed] = True
            if not bool((counts.occurrences * chosen).any()):
                raise ValueError(
                    f"keyword_file={self.settings.keyword_file!r}: its keywords never occur in the"
                    f" {int(counts.occurrences.sum())} tokens counted: list others"
                )
        self.keywords.copy_(chosen)
        self.found.fill_(True)

    def forward(self, batch: Batch, cache: Cache | None = None) -> Output:
        """Logits; with a cache `batch` holds the next tokens, and they are the last one's only."""
        state = self.trunk.begin(batch, cache)
        is_keyword = self.keywords[self._symbols(batch)]  # [B, T]
        share = float(self.share)
        score = torch.where(is_keyword, 1.0, share)
        for number, block in enumerate(self.trunk.blocks):
            with routing.region("router"):
                own = is_keyword | runs_rest(number, share)
                run = self.elements.decide(number, block, state, score, own)
            state = self.elements.run_chosen(block, state, run)
        if cache is not None:
            state = replace(state, x=state.x[:, -1:])
        return Output(self.trunk.head(state), state.aux_loss)

    def generate(self, prompt: Batch, num_tokens: int) -> Iterator[Tensor]:
        """The likeliest next tokens, one by one; see `methods.trunk.decoding`."""
        return greedy(self, self.trunk.spec, prompt, num_tokens)

    def _symbols(self, batch: Batch) -> Tensor:
        """What the tokens of the blocks stand for, [B, T]."""
        return batch.inputs if batch.decoder_inputs is None else batch.decoder_inputs

    def _read_list(self) -> list[int]:
        """The symbols of the user's list."""
        path = self.settings.keyword_file
        assert path is not None
        if not self.trunk.spec.symbols:
            raise Unsupported(f"{self.trunk.spec.name} names no symbols that a list could name")
        return find_symbols(read_keywords(path), self.trunk.spec.symbols, path)


def runs_rest(number: int, share: float) -> bool:
    """Whether tokens that are no keywords run block `number`: a share of all, evenly spread."""
    # Of n blocks ceil(n share), beginning with the first, which all later ones build on.
    return math.ceil((number + 1) * share) > math.ceil(number * share)
