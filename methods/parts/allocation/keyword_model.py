"""Keyword-driven allocation as a model: counts symbols, finds the keywords, runs blocks by them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from bench import routing
from bench.types import Batch, Output, Unsupported
from methods.parts.allocation.elements import Tokens
from methods.parts.allocation.keywords import SymbolCounts, find_symbols, pick, read_keywords
from methods.trunk.cache import Cache
from methods.trunk.decoding import greedy
from methods.trunk.trunk import Trunk


@dataclass(frozen=True)
class KeywordRule:
    """What makes a symbol a keyword: `by` auto, surprisal or classes, or the list in a `file`."""

    by: str
    share: float  # of all tokens
    file: str | None


class KeywordModel(nn.Module):
    """`trunk` whose tokens run blocks by their symbols; keywords run all, others a `share` of them.

    Raises Unsupported where there are no symbols.
    """

    keywords: Tensor  # bool [V]
    found: Tensor
    share: Tensor

    def __init__(self, trunk: Trunk, rule: KeywordRule, share: float) -> None:
        super().__init__()
        spec = trunk.spec
        if spec.kind not in ("tokens", "seq2seq") or spec.vocab_size is None:
            raise Unsupported(f"keywords are symbols, and {spec.kind} tasks have none")
        has_label = spec.kind == "tokens" and not spec.causal
        if rule.by == "classes" and not has_label:
            raise Unsupported("by=classes needs one label for each sample: by=surprisal does not")
        self.by_classes = has_label and rule.by != "surprisal"
        self.trunk, self.rule = trunk, rule
        self.elements = Tokens(trunk, masks_in_training=False)
        # A decoder's tokens are those that it predicts.
        num_symbols = spec.num_outputs if spec.kind == "seq2seq" else spec.vocab_size
        self.counts = SymbolCounts(num_symbols, spec.num_outputs if self.by_classes else 0)
        self.register_buffer("keywords", torch.ones(num_symbols, dtype=torch.bool))
        self.register_buffer("found", torch.tensor(False))
        self.register_buffer("share", torch.tensor(share, dtype=torch.float64))
        self.listed = self._read_list() if rule.file is not None else None

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
            chosen = pick(scores, counts.occurrences, self.rule.share)
        else:
            chosen = torch.zeros_like(self.keywords)
            chosen[self.listed] = True
            if not bool((counts.occurrences * chosen).any()):
                raise ValueError(
                    f"keyword_file={self.rule.file!r}: its keywords never occur in the"
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
        path = self.rule.file
        assert path is not None
        if not self.trunk.spec.symbols:
            raise Unsupported(f"{self.trunk.spec.name} names no symbols that a list could name")
        return find_symbols(read_keywords(path), self.trunk.spec.symbols, path)


def runs_rest(number: int, share: float) -> bool:
    """Whether tokens that are no keywords run block `number`: a share of all, evenly spread."""
    # Of n blocks ceil(n share), beginning with the first, which all later ones build on.
    return math.ceil((number + 1) * share) > math.ceil(number * share)
