"""Character language modelling on the English that ships with CPython.

`pydoc_data.topics` is the language reference as pydoc's `help()` prints it: prose, grammar,
examples and tables. Paragraphs that several topics share (a fifth of the text) are kept once;
otherwise training text would leak into the test. The text differs between Python versions: its
hash is in every trial's key.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pydoc_data.topics import topics
from typing import Annotated, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bench.tasks.parts import ngram
from bench.tasks.parts.preloaded import SPLITS, Preloaded
from bench.tasks.parts.scoring import cross_entropy
from bench.types import (
    Batch,
    Extras,
    Model,
    Output,
    Quality,
    Range,
    Recipe,
    Split,
    TaskSpec,
    check_fields,
)

PIECE = 4096  # characters; of every ten pieces, eight train, one calibrates, one tests
STEPS = 1200  # of the recipe
ORDERS = (1, 2, 3, 5)  # of the n-gram baselines


@dataclass
class Text(Preloaded):
    """Predict the next character; bits per character, lower is better.

    `length` is the window T: the context of a model has at most that many characters. Windows of
    the training pieces overlap by half, so that window boundaries vary. `steps` shortens the recipe
    for an experiment with little time (`task=text_brief`); null keeps its own length.
    """

    length: Annotated[int, Range(2, PIECE - 1)] = 48
    steps: Annotated[int | None, Range(0)] = None

    version: ClassVar[int] = 2

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def spec(self) -> TaskSpec:
        num_symbols = len(alphabet())
        return TaskSpec(
            "text",
            "tokens",
            (self.length,),
            num_symbols,
            num_symbols,
            causal=True,
            symbols=tuple(alphabet()),
        )

    @property
    def split_sizes(self) -> Mapping[Split, int]:
        """Computed from the text, which ships with Python and loads in a moment."""
        return {split: self.num_samples(split) for split in SPLITS}

    @property
    def extras(self) -> Extras:
        """What the task offers beyond training and scoring."""
        return Extras(split_sizes=self.split_sizes, attributes=self.attributes)

    @property
    def recipe(self) -> Recipe:
        return Recipe(steps=STEPS if self.steps is None else self.steps, batch_size=20, lr=5e-3)

    def samples(self) -> Mapping[Split, Batch]:
        return _samples(self.length)

    def attributes(self, split: Split) -> Mapping[str, Tensor]:
        """`source`: the piece of text that a window is cut from."""
        num_pieces, num_windows = len(_pieces()[split]), self.num_samples(split)
        return {"source": torch.arange(num_windows) // (num_windows // num_pieces)}

    def criterion(self, output: Output, batch: Batch) -> Tensor:
        return cross_entropy(output, batch)

    @torch.no_grad()
    def evaluate(self, model: Model, batches: Iterable[Batch]) -> Quality:
        """Mean bits per character, and per window in data order. `model` is in evaluation mode."""
        bits = torch.cat([_bits(model(batch), batch) for batch in batches]).cpu().double()
        return Quality(
            value=float(bits.mean()),
            unit="bits/character",
            direction="lower",
            per_sample=bits.tolist(),
            chance=math.log2(len(alphabet())),
            references=_references(self.length),
        )


def _bits(output: Output, batch: Batch) -> Tensor:
    """Mean bits per character of every window, [B]."""
    nats = F.cross_entropy(output.logits.transpose(1, 2), batch.targets, reduction="none")  # [B, T]
    return nats.mean(1) / math.log(2)


@cache
def alphabet() -> str:
    """Every character of the text, sorted; a symbol is its position here."""
    # Of the whole text, test included: an unknown character would have no probability.
    return "".join(sorted(set(corpus())))


@cache
def corpus() -> str:
    """All topics in order of their names, every paragraph once."""
    kept: dict[str, str] = {}
    for name in sorted(topics):
        for paragraph in topics[name].split("\n\n"):
            # Compared without white space: indentation differs between topics.
            kept.setdefault(" ".join(paragraph.split()), paragraph)
    return "\n\n".join(kept.values())


@cache
def _pieces() -> dict[Split, ngram.Symbols]:
    """The pieces of each split as symbols, [pieces, PIECE]; a short last one is dropped."""
    place = {character: symbol for symbol, character in enumerate(alphabet())}
    symbols = np.array([place[character] for character in corpus()], dtype=np.int64)
    pieces = symbols[: len(symbols) // PIECE * PIECE].reshape(-1, PIECE)
    # Interleaved: topics are sorted by name, and a contiguous test would be of other topics.
    turn = np.arange(len(pieces)) % 10
    return {
        "train": pieces[(turn != 4) & (turn != 9)],
        "calibration": pieces[turn == 4],
        "test": pieces[turn == 9],
    }


def _windows(pieces: ngram.Symbols, length: int, stride: int) -> ngram.Symbols:
    """Windows of `length` inputs and the target after the last, [N, length + 1]."""
    # Never across pieces, whose neighbours belong to other splits.
    view = np.lib.stride_tricks.sliding_window_view(pieces, length + 1, axis=1)
    return np.ascontiguousarray(view[:, ::stride].reshape(-1, length + 1))


@cache
def _samples(length: int) -> dict[Split, Batch]:
    """Inputs and targets of each split, int64 [N, length]."""
    batches: dict[Split, Batch] = {}
    for split, pieces in _pieces().items():
        # Test windows do not overlap: each character is scored once.
        stride = length // 2 if split == "train" else length
        windows = torch.from_numpy(_windows(pieces, length, stride))
        batches[split] = Batch(windows[:, :-1].contiguous(), windows[:, 1:].contiguous())
    return batches


@cache
def _references(length: int) -> dict[str, float]:
    """Bits per character of interpolated n-grams on the same split and windows."""
    pieces = _pieces()
    windows = _windows(pieces["test"], length, length)
    return {
        f"{order}-gram": ngram.bits_per_symbol(pieces["train"], windows, order, len(alphabet()))
        for order in ORDERS
    }
