"""Which package a passage comes from: splits, vocabulary, difficulty and noise."""

from __future__ import annotations

import torch

from bench.measure.diagnostics.difficulty import places
from bench.measure.quality.robustness import conditions
from bench.tasks import topics
from bench.tasks.parts.docstrings import Docstring
from bench.tasks.topics import Topics
from bench.types import Batch, Output, Task

NUM_CLASSES = len(topics.PACKAGES)


class Oracle:
    """Returns the target."""

    def __call__(self, batch: Batch) -> Output:
        return Output(torch.nn.functional.one_hot(batch.targets, NUM_CLASSES).float())


def test_it_is_a_token_task_with_one_label_per_passage() -> None:
    """Passages of at most 64 words with a mask, ten classes, every class in every split."""
    task = Topics()
    assert isinstance(task, Task)
    assert not task.spec.causal
    for samples in task.samples().values():
        assert samples.inputs.shape[1:] == task.spec.input_shape
        assert samples.mask is not None
        assert samples.mask.any(1).all()
        assert torch.equal(samples.mask, samples.inputs != topics.PADDING)
        assert int(samples.inputs.max()) < (task.spec.vocab_size or 0)
        assert set(samples.targets.tolist()) == set(range(task.spec.num_outputs))


def test_the_test_split_is_large_enough() -> None:
    """A thousand passages: a standard error of 1.3 points at 80 %."""
    assert Topics().num_samples("test") >= 1_000


def runs(documents: list[Docstring], length: int) -> set[tuple[str, ...]]:
    """Every run of `length` words of the paragraphs."""
    paragraphs = (words for paragraphs, _ in documents for words in paragraphs)
    return {tuple(w[i : i + length]) for w in paragraphs for i in range(len(w) - length + 1)}


def test_the_test_is_not_in_training() -> None:
    """Less than one in twenty of the test's runs of sixteen words is also in training."""
    train, test = (runs(topics._split()[split], 16) for split in ("train", "test"))
    assert len(test) > 10_000
    assert len(test & train) < 0.05 * len(test)


def test_no_two_passages_are_equal() -> None:
    """Inputs differ within and across splits, all unknown words being one symbol."""
    rows = [tuple(r) for part in topics._passages().values() for r in part.inputs.tolist()]
    assert len(set(rows)) == len(rows)
    assert places(Topics(), list(Topics().batches("test", 64))) == list(
        range(Topics().num_samples("test"))
    )


def test_training_copies_drop_different_words() -> None:
    """Eight copies; three tenths of the known words are unknown, and nothing else has changed.

    8 x 2,130 passages of some 24 known words: the share's standard error is below 0.1 points.
    """
    passages, train = topics._passages()["train"], Topics().samples()["train"]
    assert len(train) == 8 * len(passages)
    given = passages.inputs.repeat(8, 1)
    changed = train.inputs != given
    assert (train.inputs[changed] == topics.UNKNOWN).all()
    assert abs(changed[given > topics.UNKNOWN].double().mean() - 0.3) < 0.005
    assert len({tuple(copy.tolist()) for copy in train.inputs[:: len(passages)]}) == 8
    assert torch.equal(train.targets, passages.targets.repeat(8))
    for split in ("calibration", "test"):
        assert torch.equal(Topics().samples()[split].inputs, topics._passages()[split].inputs)


def test_the_vocabulary_is_that_of_training() -> None:
    """Words that only the calibration or test docstrings use are unknown."""
    train = topics._split()["train"]
    assert set(topics._vocabulary()) <= {w for parts, _ in train for words in parts for w in words}


def test_a_long_paragraph_gives_several_passages() -> None:
    """Of 130 words with a stride of 32 passages begin at 0, 32 and 64; a short one is padded."""
    word = next(iter(topics._vocabulary()))
    batch, sources = topics._encode([([[word] * 130], 3), ([[word, "never seen"]], 5)], 32)
    assert batch.targets.tolist() == [3, 3, 3, 5]
    assert sources.tolist() == [0, 0, 0, 1]
    symbol = topics._vocabulary()[word]
    assert batch.inputs[3, :3].tolist() == [symbol, topics.UNKNOWN, topics.PADDING]
    assert batch.mask is not None
    assert batch.mask.sum(1).tolist() == [64, 64, 64, 2]


def test_an_oracle_scores_a_hundred_beside_naive_bayes() -> None:
    """A perfect model reaches 100 %; word counts are far above the most frequent class."""
    task = Topics()
    quality = task.evaluate(Oracle(), task.batches("test", 64))
    assert quality.value == 100.0
    assert quality.chance == 10.0
    assert quality.references["naive Bayes"] > quality.references["majority"] + 20


def test_difficulty_is_the_share_of_places_without_a_known_word() -> None:
    """16 known words of 64 places: three quarters are missing, or unknown."""
    difficulty = Topics().attributes("test")["difficulty"]
    inputs = Topics().samples()["test"].inputs
    num_known = [sum(symbol > topics.UNKNOWN for symbol in row) for row in inputs.tolist()]
    assert difficulty.tolist() == [1 - num / 64 for num in num_known]
    assert difficulty.unique().numel() > 20


def test_passages_with_few_known_words_are_hard() -> None:
    """Naive Bayes is right more often on the easier half."""
    task = Topics()
    right = torch.from_numpy(topics._bayes(topics._passages()["train"], task.samples()["test"]))
    difficulty = task.attributes("test")["difficulty"]
    easier = difficulty < difficulty.median()
    assert right[easier].double().mean() > right[~easier].double().mean() + 0.05


def test_noise_hits_characters_before_words_are_looked_up() -> None:
    """At severity 5 a fifth of all characters change: a word of n stays with 0.8 ^ n.

    Of the passages' words of ten letters a tenth stays (0.107), of single characters 0.8.
    """
    batch = Topics().samples()["test"]
    noisy = Topics().corruptions()["characters"](batch, 5, 0)
    length = torch.zeros(len(topics._vocabulary()) + 2, dtype=torch.long)
    for word, symbol in topics._vocabulary().items():
        length[symbol] = len(word)
    same = (noisy.inputs == batch.inputs).double()
    assert abs(same[length[batch.inputs] == 10].mean() - 0.107) < 0.05
    assert abs(same[length[batch.inputs] == 1].mean() - 0.8) < 0.05
    assert torch.equal(noisy.inputs == topics.PADDING, batch.inputs == topics.PADDING)
    assert same[batch.inputs == topics.UNKNOWN].all()
    assert torch.equal(noisy.targets, batch.targets)


def test_noise_grows_and_repeats() -> None:
    """The same seed gives the same words; each severity changes more than the one before."""
    batch = Topics().samples()["test"].select(torch.arange(64))
    corrupt = Topics().corruptions()["characters"]
    changed = [int((corrupt(batch, s, 0).inputs != batch.inputs).sum()) for s in range(1, 6)]
    assert changed == sorted(set(changed))
    assert torch.equal(corrupt(batch, 3, 7).inputs, corrupt(batch, 3, 7).inputs)
    assert not torch.equal(corrupt(batch, 3, 7).inputs, corrupt(batch, 3, 8).inputs)


def test_robustness_uses_the_tasks_own_noise() -> None:
    """Characters at five severities in place of the substitution that other token tasks get."""
    names = [condition.name for condition in conditions(Topics(), "cpu")]
    assert names == [
        *("clean", *(f"characters_s{severity}" for severity in range(1, 6))),
        *("garbage", "unseen"),
    ]


def test_unseen_packages_have_no_right_answer() -> None:
    """Passages of other packages look like the task's own and have no target."""
    assert not set(topics.OTHERS) & set(topics.PACKAGES)
    unseen = Topics().unseen()
    assert len(unseen) > 100
    assert unseen.inputs.shape[1:] == Topics().spec.input_shape
    assert (unseen.targets == -100).all()
    rows = topics._rows(unseen)
    assert len(set(rows)) == len(rows)
    assert not set(rows) & {
        row for part in topics._passages().values() for row in topics._rows(part)
    }
