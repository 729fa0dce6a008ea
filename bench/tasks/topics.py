"""Which package of Python's standard library does a passage of documentation come from?

The passages are paragraphs of docstrings, read from the sources that ship with CPython and split
into words. The splits share no docstring, and a paragraph of several docstrings is kept once. The
data are few, and a network would memorise them: it trains on copies in which some words are
replaced by the unknown symbol. Naive Bayes over word counts, the baseline, is strong on long
passages. The text differs between Python versions: its hash is in every trial's key.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.naive_bayes import MultinomialNB
from torch import Tensor

from bench.tasks.parts.docstrings import Docstring, docstrings
from bench.tasks.parts.preloaded import SPLITS, Preloaded
from bench.tasks.parts.scoring import IGNORED, accuracy, cross_entropy, majority
from bench.types import Batch, Corruption, Extras, Model, Output, Quality, Recipe, Split, TaskSpec

PACKAGES = (
    *("_pydecimal", "asyncio", "email", "http", "importlib"),
    *("logging", "typing", "unittest", "urllib", "xml"),
)
# Sources of the unseen class, disjoint from PACKAGES.
OTHERS = ("argparse", "difflib", "inspect", "ipaddress", "statistics", "tarfile", "threading")
LENGTH = 64  # words of a passage
STRIDE = 32  # words between the starts of two training passages of a long paragraph
NUM_COPIES = 8  # of every training passage, each with other words dropped
DROPPED = 0.3  # share of a copy's words that read as unknown: word dropout (Iyyer et al. 2015)
PADDING, UNKNOWN = 0, 1
SEED = 7  # of the split and of word dropout, independent of a trial's seed


@dataclass
class Topics(Preloaded):
    """Ten packages; accuracy in percent."""

    version: ClassVar[int] = 4

    @property
    def spec(self) -> TaskSpec:
        symbols = ("<padding>", "<unknown>", *_vocabulary())
        return TaskSpec(
            "topics",
            "tokens",
            (LENGTH,),
            len(PACKAGES),
            vocab_size=len(symbols),
            symbols=symbols,
        )

    @property
    def split_sizes(self) -> Mapping[Split, int]:
        """Computed from the text, which ships with Python and loads in a moment."""
        return {split: self.num_samples(split) for split in SPLITS}

    @property
    def extras(self) -> Extras:
        """What the task offers beyond training and scoring."""
        return Extras(
            split_sizes=self.split_sizes,
            attributes=self.attributes,
            unseen=self.unseen,
            corruptions=self.corruptions,
        )

    @property
    def recipe(self) -> Recipe:
        return Recipe(steps=800, batch_size=32, lr=1e-3, weight_decay=0.1)

    def samples(self) -> Mapping[Split, Batch]:
        return _samples()

    def attributes(self, split: Split) -> Mapping[str, Tensor]:
        """`difficulty` in 0..1: share of places without a known word; `source`: the docstring."""
        known = _samples()[split].inputs > UNKNOWN
        num_copies = NUM_COPIES if split == "train" else 1
        return {
            "difficulty": 1.0 - known.double().mean(1),
            "source": _passages_with_sources()[split][1].repeat(num_copies),
        }

    def criterion(self, output: Output, batch: Batch) -> Tensor:
        return cross_entropy(output, batch)

    def evaluate(self, model: Model, batches: Iterable[Batch]) -> Quality:
        return accuracy(model, batches, num_classes=len(PACKAGES), references=_references())

    def corruptions(self) -> Mapping[str, Corruption]:
        """Misspelt words, which mostly read as unknown ones: noise comes before the vocabulary."""
        return {"characters": _misspell}

    def unseen(self) -> Batch:
        """Passages from other packages, none twice or known: none of the classes is right."""
        others, _ = _encode([(words, IGNORED) for words, _ in docstrings(OTHERS)], LENGTH)
        seen = {row for part in _passages().values() for row in _rows(part)}
        return others.select(_new_places(others, seen))


@cache
def _split() -> dict[Split, list[Docstring]]:
    """Six tenths of the docstrings for training, one for calibration, three for the test."""
    every = docstrings(PACKAGES)
    shuffled = [every[i] for i in np.random.default_rng(SEED).permutation(len(every))]
    first, second = len(every) * 6 // 10, len(every) * 7 // 10
    return {
        "train": shuffled[:first],
        "calibration": shuffled[first:second],
        "test": shuffled[second:],
    }


@cache
def _vocabulary() -> dict[str, int]:
    """The words that training docstrings use at least twice, most frequent first."""
    train = _split()["train"]
    counts = Counter(word for paragraphs, _ in train for words in paragraphs for word in words)
    # Ties alphabetically, so that the order of the docstrings does not matter.
    known = sorted((word for word in counts if counts[word] >= 2), key=lambda w: (-counts[w], w))
    return {word: i + 2 for i, word in enumerate(known)}


@cache
def _samples() -> dict[Split, Batch]:
    """The passages of each split; those for training as copies with words dropped."""
    return _passages() | {"train": _copies(_passages()["train"])}


def _copies(passages: Batch) -> Batch:
    """NUM_COPIES of each passage, each with some words replaced by the unknown symbol."""
    copies = passages.select(torch.arange(len(passages)).repeat(NUM_COPIES))
    drawn = np.random.default_rng(SEED).random(tuple(copies.inputs.shape))
    dropped = torch.from_numpy(drawn < DROPPED) & (copies.inputs != PADDING)
    return replace(copies, inputs=copies.inputs.masked_fill(dropped, UNKNOWN))


def _passages() -> dict[Split, Batch]:
    """Passages of each split; of passages with equal symbols only the first is kept."""
    return {split: passages for split, (passages, _) in _passages_with_sources().items()}


@cache
def _passages_with_sources() -> dict[Split, tuple[Batch, Tensor]]:
    """The passages of each split, and the docstring of each, [N]."""
    seen: set[tuple[int, ...]] = set()
    found: dict[Split, tuple[Batch, Tensor]] = {}
    for split, part in _split().items():
        passages, sources = _encode(part, STRIDE if split == "train" else LENGTH)
        places = _new_places(passages, seen)
        found[split] = passages.select(places), sources[places]
        seen.update(_rows(passages))
    return found


def _rows(passages: Batch) -> list[tuple[int, ...]]:
    """The words of each passage."""
    return [tuple(row) for row in passages.inputs.tolist()]


def _new_places(passages: Batch, seen: set[tuple[int, ...]]) -> Tensor:
    """Where every passage that is not in `seen` stands first."""
    # Reversed, so that the first of several equal rows overwrites the others.
    places = reversed(list(enumerate(_rows(passages))))
    first = {row: place for place, row in places if row not in seen}
    return torch.tensor(sorted(first.values()))


def _encode(documents: list[Docstring], stride: int) -> tuple[Batch, Tensor]:
    """Passages of at most LENGTH words: inputs and mask [N, LENGTH], targets [N].

    And the number of the docstring that each is from, [N].
    """
    vocabulary = _vocabulary()
    inputs, targets, sources = [], [], []
    paragraphs = (
        (number, words, package)
        for number, (paragraphs, package) in enumerate(documents)
        for words in paragraphs
    )
    for number, words, package in paragraphs:
        symbols = [vocabulary.get(word, UNKNOWN) for word in words]
        for start in range(0, max(len(symbols) - LENGTH, 0) + 1, stride):
            passage = symbols[start : start + LENGTH]
            inputs.append(passage + [PADDING] * (LENGTH - len(passage)))
            targets.append(package)
            sources.append(number)
    tokens = torch.tensor(inputs)
    return Batch(tokens, torch.tensor(targets), mask=tokens != PADDING), torch.tensor(sources)


def _misspell(batch: Batch, severity: int, seed: int) -> Batch:
    """Replace a share of all characters, by `severity` 1 to 5, by random letters."""
    share = (0.01, 0.02, 0.05, 0.1, 0.2)[severity - 1]
    rng = np.random.default_rng(seed)
    spelt = {symbol: word for word, symbol in _vocabulary().items()}
    words = [[spelt.get(symbol, "") for symbol in row] for row in batch.inputs.tolist()]
    longest = max(map(len, spelt.values()))
    # Drawn for every position, whatever its word: the same seed hits the same positions.
    hit = rng.random((*batch.inputs.shape, longest)) < share
    letters = rng.integers(ord("a"), ord("z") + 1, hit.shape)
    misspelt = batch.inputs.clone()
    for row, column in np.argwhere(hit.any(-1)):
        if word := words[row][column]:  # padding and unknown words stay unchanged
            changed = zip(word, hit[row, column], letters[row, column], strict=False)
            other = "".join(chr(letter) if replaced else c for c, replaced, letter in changed)
            misspelt[row, column] = _vocabulary().get(other, UNKNOWN)
    return replace(batch, inputs=misspelt)


@cache
def _references() -> dict[str, float]:
    """Accuracy in percent of the most frequent class and of naive Bayes over word counts."""
    train, test = _passages()["train"], _passages()["test"]
    return {
        "majority": majority(train.targets, test.targets),
        "naive Bayes": 100.0 * float(_bayes(train, test).mean()),
    }


def _bayes(train: Batch, test: Batch) -> NDArray[np.bool_]:
    """Whether naive Bayes over word counts is right about each test passage, [N]."""
    bayes = MultinomialNB(alpha=0.1).fit(_counts(train), train.targets.numpy())
    right: NDArray[np.bool_] = bayes.predict(_counts(test)) == test.targets.numpy()
    return right


def _counts(passages: Batch) -> np.ndarray:
    """Occurrences of each word in each passage, [N, words]."""
    num_words = len(_vocabulary()) + 2
    counts = np.zeros((len(passages), num_words), np.int64)
    rows = np.arange(len(passages))[:, None].repeat(LENGTH, 1)
    words = passages.inputs.numpy()
    np.add.at(counts, (rows, words), words != PADDING)  # unbuffered: repeated words add up
    return counts
