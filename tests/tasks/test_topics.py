"""Topics of documentation: what a score rests on."""

from __future__ import annotations

import torch

from bench.tasks import topics
from bench.tasks.topics import Topics
from bench.types import Batch, Output, Task


class Oracle:
    """Knows the answer."""

    def __call__(self, batch: Batch) -> Output:
        return Output(torch.nn.functional.one_hot(batch.targets, topics.NUM_CLASSES).float())


def test_it_is_a_token_task_with_one_label_per_passage() -> None:
    """Passages of at most 64 words with a mask, eight classes, every class in every split."""
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


def test_no_paragraph_is_in_two_splits() -> None:
    """Splits are made of whole paragraphs, each once, and the words are those of training."""
    split = topics._split()
    spelt = [" ".join(words) for paragraphs in split.values() for words, _ in paragraphs]
    assert len(spelt) == len(topics._paragraphs()) - sum(t < 0 for _, t in topics._paragraphs())
    assert len({id(words) for part in split.values() for words, _ in part}) == len(spelt)
    training_words = {word for words, _ in split["train"] for word in words}
    assert set(topics._vocabulary()) <= training_words


def test_a_long_paragraph_gives_several_passages() -> None:
    """Of 130 words with a stride of 32 passages begin at 0, 32 and 64; a short one is padded."""
    word = next(iter(topics._vocabulary()))
    batch = topics._encode([([word] * 130, 3), ([word, "never seen"], 5)], 32)
    assert batch.targets.tolist() == [3, 3, 3, 5]
    symbol = topics._vocabulary()[word]
    assert batch.inputs[3, :3].tolist() == [symbol, topics.UNKNOWN, topics.PADDING]
    assert batch.mask is not None
    assert batch.mask.sum(1).tolist() == [64, 64, 64, 2]


def test_an_oracle_scores_a_hundred_and_naive_bayes_stands_beside() -> None:
    """A perfect model reaches 100 %; counting words is far above the commonest class."""
    task = Topics()
    quality = task.evaluate(Oracle(), task.batches("test", 64))
    assert quality.value == 100.0
    assert quality.chance == 12.5
    assert quality.references["naive Bayes"] > quality.references["majority"] + 20


def test_unseen_topics_have_no_right_answer() -> None:
    """Passages of all other topics look like the task's own and have no target."""
    unseen = Topics().unseen()
    assert len(unseen) > 100
    assert unseen.inputs.shape[1:] == Topics().spec.input_shape
    assert (unseen.targets == -100).all()
