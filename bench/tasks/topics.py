"""Which topic of Python's documentation does a passage come from?

The passages are paragraphs of `pydoc_data.topics`, which ships with CPython, in words. The classes
are the eight topics with the most text of their own: where topics share a paragraph, it belongs to
the shortest of them. Small and real: about 500 paragraphs to learn from, so that counting words
(naive Bayes, printed beside the model) is hard to beat.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pydoc_data.topics import topics
from typing import ClassVar

import numpy as np
import torch
from sklearn.naive_bayes import MultinomialNB
from torch import Tensor

from bench.tasks.preloaded import Preloaded
from bench.tasks.scoring import IGNORED, accuracy, cross_entropy, majority
from bench.types import Batch, Model, Output, Quality, Recipe, Split, TaskSpec

NUM_CLASSES = 8
LENGTH = 64  # words of a passage
STRIDE = 32  # training passages of a long paragraph start every so many words
SHORTEST = 40  # characters of a paragraph: shorter ones are headings and single lines of code
PROSE = 0.5  # least share of letters in a paragraph: tables and grammar have fewer
PADDING, UNKNOWN = 0, 1
SEED = 7  # of the split

Paragraph = tuple[list[str], int]  # words and class


@dataclass
class Topics(Preloaded):
    """Eight topics; accuracy in percent."""

    version: ClassVar[int] = 1

    @property
    def spec(self) -> TaskSpec:
        num_words = len(_vocabulary()) + 2
        return TaskSpec("topics", "tokens", (LENGTH,), NUM_CLASSES, vocab_size=num_words)

    @property
    def recipe(self) -> Recipe:
        return Recipe(steps=300, batch_size=32, lr=1e-3)

    def samples(self) -> Mapping[Split, Batch]:
        return _samples()

    def criterion(self, output: Output, batch: Batch) -> Tensor:
        return cross_entropy(output, batch)

    def evaluate(self, model: Model, batches: Iterable[Batch]) -> Quality:
        return accuracy(model, batches, num_classes=NUM_CLASSES, references=_references())

    def unseen(self) -> Batch:
        """Passages from all the other topics: none of the classes is right."""
        return _encode([(words, IGNORED) for words, topic in _paragraphs() if topic < 0], LENGTH)


@cache
def _paragraphs() -> list[Paragraph]:
    """Every paragraph once, with its class, or -1 for a topic that is none."""
    owners: dict[str, str] = {}
    for name in sorted(topics, key=lambda name: (len(topics[name]), name)):
        for paragraph in topics[name].split("\n\n"):
            plain = " ".join(paragraph.split())
            if len(plain) >= SHORTEST and _share_of_letters(plain) >= PROSE:
                owners.setdefault(plain, name)
    num_characters: Counter[str] = Counter()
    for plain, name in owners.items():
        num_characters[name] += len(plain)
    classes = {name: i for i, (name, _) in enumerate(num_characters.most_common(NUM_CLASSES))}
    return [
        (re.findall(r"\w+|[^\w\s]", plain.lower()), classes.get(name, -1))
        for plain, name in owners.items()
    ]


def _share_of_letters(paragraph: str) -> float:
    return sum(character.isalpha() for character in paragraph) / len(paragraph)


@cache
def _split() -> dict[Split, list[Paragraph]]:
    """Seven tenths of the paragraphs for training, one for calibration, two for the test."""
    inside = [paragraph for paragraph in _paragraphs() if paragraph[1] >= 0]
    order = np.random.default_rng(SEED).permutation(len(inside))
    shuffled = [inside[i] for i in order]
    first, second = len(inside) * 7 // 10, len(inside) * 8 // 10
    return {
        "train": shuffled[:first],
        "calibration": shuffled[first:second],
        "test": shuffled[second:],
    }


@cache
def _vocabulary() -> dict[str, int]:
    """The words that training paragraphs use at least twice, the commonest first."""
    counts = Counter(word for words, _ in _split()["train"] for word in words)
    known = sorted((word for word in counts if counts[word] >= 2), key=lambda w: (-counts[w], w))
    return {word: i + 2 for i, word in enumerate(known)}


@cache
def _samples() -> dict[Split, Batch]:
    return {
        split: _encode(paragraphs, STRIDE if split == "train" else LENGTH)
        for split, paragraphs in _split().items()
    }


def _encode(paragraphs: list[Paragraph], stride: int) -> Batch:
    """Passages of at most LENGTH words: inputs and mask [N, LENGTH], targets [N]."""
    vocabulary = _vocabulary()
    inputs, targets = [], []
    for words, topic in paragraphs:
        symbols = [vocabulary.get(word, UNKNOWN) for word in words]
        for start in range(0, max(len(symbols) - LENGTH, 0) + 1, stride):
            passage = symbols[start : start + LENGTH]
            inputs.append(passage + [PADDING] * (LENGTH - len(passage)))
            targets.append(topic)
    tokens = torch.tensor(inputs)
    return Batch(tokens, torch.tensor(targets), mask=tokens != PADDING)


@cache
def _references() -> dict[str, float]:
    """Accuracy in percent of the commonest class, and of naive Bayes over counts of words."""
    train, test = _samples()["train"], _samples()["test"]
    bayes = MultinomialNB(alpha=0.1).fit(_counts(train), train.targets.numpy())
    right = bayes.predict(_counts(test)) == test.targets.numpy()
    return {
        "majority": majority(train.targets, test.targets),
        "naive Bayes": 100.0 * float(right.mean()),
    }


def _counts(passages: Batch) -> np.ndarray:
    """How often each word occurs in each passage, [N, words]."""
    num_words = len(_vocabulary()) + 2
    counts = np.zeros((len(passages), num_words), np.int64)
    rows = np.arange(len(passages))[:, None].repeat(LENGTH, 1)
    words = passages.inputs.numpy()
    np.add.at(counts, (rows, words), words != PADDING)
    return counts
