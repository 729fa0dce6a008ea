"""English number words into French ones: a synthetic stand-in for translation.

`num2words` writes the same number in both languages. English counts in tens, French partly in
twenties (97 is quatre-vingt-dix-sept), with plurals and an "et" that depend on what follows. Short
numbers are easy, nine digits are hard; few are there to learn from. The numbers of the test were
never seen. A score here says nothing about translating real sentences: no parallel text ships with
Python.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from bench.tasks.preloaded import Preloaded
from bench.tasks.scoring import IGNORED, cross_entropy
from bench.types import Batch, Model, Output, Quality, Recipe, Split, TaskSpec

SOURCE, TARGET = "en", "fr"
MOST_DIGITS = 9
NUM_SAMPLES: dict[Split, int] = {"train": 800, "calibration": 400, "test": 1_000}
SEED = 11  # of the numbers and the split
PADDING, BEGIN, END = 0, 1, 2
SPECIAL = ("<padding>", "<begin>", "<end>")


@dataclass
class Numbers(Preloaded):
    """Exact match of whole numbers in percent, BLEU beside it."""

    version: ClassVar[int] = 2
    split_sizes: ClassVar[Mapping[Split, int]] = NUM_SAMPLES

    @property
    def spec(self) -> TaskSpec:
        train = _samples()["train"]
        return TaskSpec(
            "numbers",
            "seq2seq",
            (train.inputs.shape[1],),
            num_outputs=len(_vocabulary(TARGET)),
            vocab_size=len(_vocabulary(SOURCE)),
            target_length=train.targets.shape[1],
            decoder_padding=PADDING,
        )

    @property
    def recipe(self) -> Recipe:
        return Recipe(steps=300, batch_size=48, lr=2e-3)

    def samples(self) -> Mapping[Split, Batch]:
        return _samples()

    def attributes(self, split: Split) -> Mapping[str, Tensor]:
        """`difficulty` in 0..1: the French number's words as a share of the most that fit."""
        targets = _samples()[split].targets
        num_words = (targets != IGNORED).sum(1) - 1  # without <end>
        return {"difficulty": num_words.double() / (targets.shape[1] - 1)}

    def criterion(self, output: Output, batch: Batch) -> Tensor:
        return cross_entropy(output, batch)

    def evaluate(self, model: Model, batches: Iterable[Batch]) -> Quality:
        """Share of numbers that greedy decoding gets wholly right, in percent, and corpus BLEU."""
        hypotheses: list[str] = []
        references: list[str] = []
        for batch in batches:
            hypotheses += sentences(greedy(model, batch))
            references += sentences(batch.targets)
        return _quality(hypotheses, references)


@torch.no_grad()
def greedy(model: Model, batch: Batch) -> Tensor:
    """Greedy decoding of a causal decoder: the likeliest next symbols, [B, T].

    Every pass answers all positions at once and feeds the answers back until nothing changes. After
    k passes the first k symbols are those of decoding one by one (Song et al. 2021, Jacobi
    iteration); what a model gets right from the true prefixes is done in one pass.
    """
    assert batch.decoder_inputs is not None
    given = batch.decoder_inputs
    answers = given
    for _ in range(given.shape[1]):
        answers = model(replace(batch, decoder_inputs=given)).logits.argmax(-1)  # [B, T]
        ended = (answers == END).cumsum(1) > 0
        shifted = answers.masked_fill(ended, PADDING).roll(1, dims=1)
        shifted[:, 0] = BEGIN
        if torch.equal(shifted, given):
            break
        given = shifted
    return answers


def sentences(symbols: Tensor) -> list[str]:
    """The words of each row [B, T] up to its first <end>."""
    words = [*SPECIAL, *_vocabulary(TARGET)[len(SPECIAL) :]]
    rows = [row[: row.index(END)] if END in row else row for row in symbols.tolist()]
    return [" ".join(words[symbol] for symbol in row) for row in rows]


def _quality(hypotheses: list[str], references: list[str]) -> Quality:
    import sacrebleu  # only here: a trial that does not score BLEU need not load it

    exact = [100.0 * (said == meant) for said, meant in zip(hypotheses, references, strict=True)]
    return Quality(
        value=sum(exact) / len(exact),
        unit="exact match %",
        direction="higher",
        per_sample=exact,
        chance=0.0,
        references=_baseline(),
        more={"BLEU": sacrebleu.corpus_bleu(hypotheses, [references], tokenize="none").score},
        more_units={"BLEU": "BLEU"},
    )


@cache
def _numbers() -> dict[Split, list[int]]:
    """Different numbers, as many of each length as there are (short ones run out), shuffled."""
    rng = np.random.default_rng(SEED)
    wanted = sum(NUM_SAMPLES.values())
    digits = rng.integers(1, MOST_DIGITS + 1, 2 * wanted)
    drawn = rng.integers(10 ** (digits - 1), 10**digits)
    different = list(dict.fromkeys(drawn.tolist()))[:wanted]
    # The few short numbers were all drawn early: in this order the test would have none of them.
    rng.shuffle(different)
    bounds = np.cumsum([0, *NUM_SAMPLES.values()])
    return {
        split: different[start:end]
        for split, start, end in zip(NUM_SAMPLES, bounds[:-1], bounds[1:], strict=True)
    }


@cache
def _said(number: int, language: str) -> tuple[str, ...]:
    """A number's words, without hyphens and commas."""
    from num2words import num2words

    return tuple(num2words(number, lang=language).replace("-", " ").replace(",", "").split())


@cache
def _vocabulary(language: str) -> tuple[str, ...]:
    """The special symbols and all words of the language's numbers, sorted."""
    known = {word for number in _numbers()["train"] for word in _said(number, language)}
    return (*SPECIAL, *sorted(known))


@cache
def _samples() -> dict[Split, Batch]:
    """Inputs and mask [N, S], decoder inputs and targets [N, T] of each split."""
    every = [number for numbers in _numbers().values() for number in numbers]
    source_length = max(len(_said(number, SOURCE)) for number in every)
    target_length = max(len(_said(number, TARGET)) for number in every) + 1
    batches: dict[Split, Batch] = {}
    for split, numbers in _numbers().items():
        inputs = _encode(SOURCE, numbers, source_length, PADDING)
        targets = _encode(TARGET, numbers, target_length, IGNORED, END)
        shifted = targets.masked_fill((targets == IGNORED) | (targets == END), PADDING).roll(1, 1)
        shifted[:, 0] = BEGIN
        batches[split] = Batch(inputs, targets, inputs != PADDING, shifted)
    return batches


def _encode(language: str, numbers: Sequence[int], length: int, filler: int, *after: int) -> Tensor:
    """Each number's words as symbols, then `after`, filled up to `length`, [N, length]."""
    place = {word: symbol for symbol, word in enumerate(_vocabulary(language))}
    rows = [[place[word] for word in _said(number, language)] + [*after] for number in numbers]
    return torch.tensor([row + [filler] * (length - len(row)) for row in rows])


@cache
def _baseline() -> dict[str, float]:
    """Exact match in percent of putting each English word into French by itself."""
    right = [_word_by_word(number) for number in _numbers()["test"]]
    return {"word by word": 100.0 * sum(right) / len(right)}


def _word_by_word(number: int) -> bool:
    """Whether a number's English words, put into French each by itself, give its French ones."""
    french = [word for english in _said(number, SOURCE) for word in _dictionary()[english]]
    return tuple(french) == _said(number, TARGET)


@cache
def _dictionary() -> dict[str, tuple[str, ...]]:
    """The French words of every English number word."""
    single = [*range(21), *range(30, 100, 10), 100, 1_000, 1_000_000]
    known = {_said(number, SOURCE)[-1]: _said(number, TARGET)[-3:] for number in single}
    return known | {"and": (), "million": ("millions",)}
