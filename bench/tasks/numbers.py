"""French number words into Japanese ones: a synthetic stand-in for translation.

`num2words` writes the same number in both languages. French counts in thousands and partly in
twenties (97 is quatre-vingt-dix-sept), Japanese in tens and in ten thousands: the place of a digit
depends on all digits after it. Short numbers are easy, twelve digits are hard. The numbers of the
test split are not in training. A score here does not transfer to translating real sentences: no
parallel text ships with Python.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from bench.tasks.parts.decoding import BEGIN, END, PADDING, greedy
from bench.tasks.parts.preloaded import Preloaded
from bench.tasks.parts.scoring import IGNORED, cross_entropy
from bench.types import Batch, Extras, Model, Output, Quality, Recipe, Split, TaskSpec

SOURCE, TARGET = "fr", "ja"
MAX_DIGITS = 12
NUM_SAMPLES: dict[Split, int] = {"train": 4_000, "calibration": 400, "test": 1_000}
SEED = 11  # of the numbers and the split
SPECIAL = ("<padding>", "<begin>", "<end>")


@dataclass
class Numbers(Preloaded):
    """Exact match of whole numbers in percent, and BLEU."""

    version: ClassVar[int] = 3

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
            symbols=tuple(_vocabulary(TARGET)),
        )

    @property
    def extras(self) -> Extras:
        """What the task offers beyond training and scoring."""
        return Extras(split_sizes=NUM_SAMPLES, attributes=self.attributes)

    @property
    def recipe(self) -> Recipe:
        return Recipe(steps=900, batch_size=24, lr=1.5e-3)

    def samples(self) -> Mapping[Split, Batch]:
        return _samples()

    def data_hash(self) -> str:
        """See `Preloaded`. Raises ModuleNotFoundError if a package for scoring is missing."""
        # Planning hashes the data: the error comes before hours of training, not after.
        for package in ("num2words", "sacrebleu"):
            if find_spec(package) is None:
                raise ModuleNotFoundError(
                    f"numbers needs {package}: pip install 'condbench[tasks]'"
                )
        return super().data_hash()

    def attributes(self, split: Split) -> Mapping[str, Tensor]:
        """`difficulty` in 0..1: the Japanese number's length relative to the longest that fits."""
        targets = _samples()[split].targets
        num_characters = (targets != IGNORED).sum(1) - 1  # without <end>
        return {"difficulty": num_characters.double() / (targets.shape[1] - 1)}

    def criterion(self, output: Output, batch: Batch) -> Tensor:
        return cross_entropy(output, batch)

    def evaluate(self, model: Model, batches: Iterable[Batch]) -> Quality:
        """Share of numbers that greedy decoding predicts exactly, in percent, and corpus BLEU."""
        hypotheses: list[str] = []
        references: list[str] = []
        for batch in batches:
            hypotheses += sentences(greedy(model, batch))
            references += sentences(batch.targets)
        return _quality(hypotheses, references)


def sentences(symbols: Tensor) -> list[str]:
    """The characters of each row [B, T] up to its first <end>, separated by spaces for BLEU."""
    characters = _vocabulary(TARGET)
    rows = [row[: row.index(END)] if END in row else row for row in symbols.tolist()]
    return [" ".join(characters[symbol] for symbol in row) for row in rows]


def _quality(hypotheses: list[str], references: list[str]) -> Quality:
    import sacrebleu  # here: an optional dependency, which only scoring needs

    exact = [100.0 * (a == b) for a, b in zip(hypotheses, references, strict=True)]
    return Quality(
        value=sum(exact) / len(exact),
        unit="exact match %",
        direction="higher",
        per_sample=exact,
        chance=0.0,
        references=_baseline(),
        # tokenize="none": the characters are separated already.
        more={"BLEU": sacrebleu.corpus_bleu(hypotheses, [references], tokenize="none").score},
        more_units={"BLEU": "BLEU"},
    )


@cache
def _numbers() -> dict[Split, list[int]]:
    """Distinct numbers, lengths in equal shares as far as short numbers exist, shuffled."""
    rng = np.random.default_rng(SEED)
    wanted = sum(NUM_SAMPLES.values())
    # Twice as many as needed: short numbers are drawn repeatedly and count once.
    digits = rng.integers(1, MAX_DIGITS + 1, 2 * wanted)
    drawn = rng.integers(10 ** (digits - 1), 10**digits)
    different = list(dict.fromkeys(drawn.tolist()))[:wanted]
    # Short numbers are few and come early: without a shuffle the test split would have none.
    rng.shuffle(different)
    bounds = np.cumsum([0, *NUM_SAMPLES.values()])
    return {
        split: different[start:end]
        for split, start, end in zip(NUM_SAMPLES, bounds[:-1], bounds[1:], strict=True)
    }


@cache
def _spell(number: int, language: str) -> tuple[str, ...]:
    """The words of a French number, without hyphens, or the characters of a Japanese one."""
    from num2words import num2words  # here: an optional dependency

    written = num2words(number, lang=language)
    return tuple(written if language == TARGET else written.replace("-", " ").split())


@cache
def _vocabulary(language: str) -> tuple[str, ...]:
    """The special symbols and all words (characters) of the language's numbers, sorted."""
    # Of training only: a word of the test that training lacks would be a KeyError, not a leak.
    known = {word for number in _numbers()["train"] for word in _spell(number, language)}
    return (*SPECIAL, *sorted(known))


@cache
def _samples() -> dict[Split, Batch]:
    """Inputs and mask [N, S], decoder inputs and targets [N, T] of each split."""
    every = [number for numbers in _numbers().values() for number in numbers]
    source_length = max(len(_spell(number, SOURCE)) for number in every)
    target_length = max(len(_spell(number, TARGET)) for number in every) + 1  # <end>
    batches: dict[Split, Batch] = {}
    for split, numbers in _numbers().items():
        inputs = _encode(SOURCE, numbers, source_length, PADDING)
        targets = _encode(TARGET, numbers, target_length, IGNORED, END)
        # Teacher forcing: <begin>, then the target up to its last symbol.
        shifted = targets.masked_fill((targets == IGNORED) | (targets == END), PADDING).roll(1, 1)
        shifted[:, 0] = BEGIN
        batches[split] = Batch(inputs, targets, inputs != PADDING, shifted)
    return batches


def _encode(language: str, numbers: Sequence[int], length: int, filler: int, *after: int) -> Tensor:
    """Each number's words as symbols, then `after`, padded with `filler`, [N, length]."""
    place = {word: symbol for symbol, word in enumerate(_vocabulary(language))}
    rows = [[place[word] for word in _spell(number, language)] + [*after] for number in numbers]
    return torch.tensor([row + [filler] * (length - len(row)) for row in rows])


@cache
def _baseline() -> dict[str, float]:
    """Exact match in percent of translating each French word independently."""
    right = [_word_by_word(number) for number in _numbers()["test"]]
    return {"word by word": 100.0 * sum(right) / len(right)}


def _word_by_word(number: int) -> bool:
    """Whether translating each French word of a number independently gives the Japanese one."""
    japanese = [character for word in _spell(number, SOURCE) for character in _dictionary()[word]]
    return tuple(japanese) == _spell(number, TARGET)


@cache
def _dictionary() -> dict[str, tuple[str, ...]]:
    """The Japanese of every French number word, singular and plural."""
    single = [*range(1, 17), *range(20, 70, 10), 100, 1_000, 1_000_000, 1_000_000_000]
    # The last French word ("un million") and at most two characters, as a million has.
    known = {_spell(number, SOURCE)[-1]: _spell(number, TARGET)[-2:] for number in single}
    plural = {f"{word}s": known[word] for word in ("vingt", "cent", "million", "milliard")}
    return known | plural | {"et": ()}
