"""Synthetic keywords, and both small tasks through one trunk."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bench.tasks import keywords, multitask
from bench.tasks.digits import Digits
from bench.tasks.keywords import Keywords
from bench.tasks.multitask import Multitask
from bench.tasks.parts import speech
from bench.tasks.parts.scoring import nearest_neighbour
from bench.types import Batch, Output, Task

HASH = "303137f2185b2386"


class Constant:
    """Always predicts the same class."""

    def __init__(self, answer: int, num_outputs: int) -> None:
        self.logits = torch.nn.functional.one_hot(torch.tensor([answer]), num_outputs).float()

    def __call__(self, batch: Batch) -> Output:
        return Output(self.logits.expand(len(batch), -1))


def test_it_is_an_audio_task_of_ten_words() -> None:
    """Log-mel spectrograms, normalised to about mean 0 and deviation 1, ten balanced classes."""
    task = Keywords()
    assert isinstance(task, Task)
    assert task.spec.kind == "audio"
    train = task.samples()["train"]
    assert train.inputs.shape[1:] == task.spec.input_shape
    assert abs(train.inputs.mean()) < 0.05
    assert train.inputs.std() == pytest.approx(1.0, abs=0.05)
    assert train.targets.bincount().tolist() == [500] * 10


def test_the_waves_are_reproducible_to_the_bit() -> None:
    """The hash is that of 16-bit waves, and these are the waves that the pinned numpy gives.

    When this fails after a change, raise `Keywords.version` with the new hash.
    """
    assert Keywords().data_hash()[:16] == HASH


def test_difficulty_is_loudness_of_the_disturbance() -> None:
    """Hard samples have more energy outside the word: their spectrograms are less dark."""
    difficulty = Keywords().attributes("test")["difficulty"]
    assert ((difficulty < 0.25) | (difficulty >= 0.5)).all()
    darkest = Keywords().samples()["test"].inputs.flatten(1).quantile(0.1, dim=1)
    assert darkest[difficulty >= 0.5].mean() > darkest[difficulty < 0.25].mean() + 0.5


def test_hard_words_are_further_from_training() -> None:
    """Nearest neighbour is right much more often on the easy half than on the hard one."""
    task = Keywords()
    difficulty = task.attributes("test")["difficulty"]
    assert nearest(task, difficulty < 0.25) > nearest(task, difficulty >= 0.5) + 20


def nearest(task: Keywords | Multitask, rows: torch.Tensor) -> float:
    known, test = task.samples()["train"], task.samples()["test"]
    return nearest_neighbour(known, test.select(rows.nonzero().flatten()))


def test_playing_at_the_same_speed_is_a_copy() -> None:
    """Speed 256 and no delay change nothing; a delay moves the wave and silence follows."""
    wave = np.arange(1, 41, dtype=np.int16)[None] * 100
    same, none = np.array([256]), np.array([0])
    assert np.array_equal(keywords._resample(wave, same, none), wave)
    later = keywords._resample(wave, same, np.array([3]))
    assert np.array_equal(later[0, 3:], wave[0, :-3])
    assert not later[0, :3].any()


def test_double_speed_takes_every_second_sample() -> None:
    """At speed 512 the middle stays fixed and the wave takes half as long."""
    wave = np.arange(1, 41, dtype=np.int16)[None] * 100
    fast = keywords._resample(wave, np.array([512]), np.array([0]))[0]
    assert np.array_equal(fast[10:30], wave[0, ::2])
    assert not fast[:10].any()
    assert not fast[30:].any()


def test_no_speaker_is_in_two_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    """40, 5 and 10 speakers, and 10 more for the unseen words: 65 different ones."""
    used: list[speech.Speaker] = []

    def register(words: list[str], speaker: speech.Speaker, rng: np.random.Generator) -> np.ndarray:
        used.append(speaker)
        return np.zeros(8, np.int64)

    def undisturbed(rng: object, clear: np.ndarray, which: np.ndarray, _: object) -> np.ndarray:
        return clear[which]

    monkeypatch.setattr(speech, "speak", register)
    monkeypatch.setattr(keywords, "_disturb", undisturbed)
    speakers = []
    for split in keywords.NUM_SAMPLES:
        used.clear()
        keywords.generate_waves.__wrapped__(split)
        speakers.append({(s.pitch_hz, s.tract, s.pace) for s in used})
    used.clear()
    keywords.unseen_words()
    speakers.append({(s.pitch_hz, s.tract, s.pace) for s in used})
    assert list(map(len, speakers)) == [40, 5, 10, 10]
    assert len(set().union(*speakers)) == 65


def test_unseen_words_have_no_right_answer() -> None:
    """Four other words by each of ten speakers, without targets."""
    unseen = Keywords().unseen()
    assert unseen.inputs.shape == (40, *Keywords().spec.input_shape)
    assert (unseen.targets == -100).all()
    assert not set(keywords.UNSEEN) & set(keywords.KEYWORDS)


def test_multitask_holds_both_tasks_in_one_shape() -> None:
    """Images [1, 16, 16]: digits are classes 0 to 9, keywords 10 to 19, as many of each."""
    task = Multitask()
    assert isinstance(task, Task)
    test = task.samples()["test"]
    which = task.attributes("test")["task"]
    assert test.inputs.shape[1:] == task.spec.input_shape == Digits().spec.input_shape
    assert torch.equal(which, test.targets // 10)
    assert which.bincount().tolist() == [keywords.NUM_SAMPLES["test"]] * 2
    digits = Digits().samples()["test"]
    assert torch.equal(test.inputs[which == 0], digits.inputs[: len(test) // 2])


def test_multitask_scores_each_task_beside_the_whole() -> None:
    """Always predicting "3" is right for some digits and no keyword."""
    task = Multitask()
    quality = task.evaluate(Constant(3, 20), task.batches("test", 300))
    share = float((task.samples()["test"].targets == 3).double().mean())
    assert quality.value == pytest.approx(100 * share)
    assert quality.more == pytest.approx({"digits": 200 * share, "keywords": 0.0})
    assert quality.chance == 5.0


def test_multitask_data_is_that_of_both(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its hash changes when either task's data do."""
    before = Multitask().data_hash()
    for task in (multitask.Digits, keywords.Keywords):
        with monkeypatch.context() as patch:
            patch.setattr(task, "data_hash", lambda self: "other")
            assert Multitask().data_hash() != before


@pytest.mark.parametrize("which", [0, 1])
def test_multitask_states_the_difficulty_of_both(which: int) -> None:
    """Nearest neighbour is right much more often on the easy digits, and on the easy keywords."""
    task = Multitask()
    attributes = task.attributes("test")
    of_task, difficulty = attributes["task"], attributes["difficulty"]
    easy, hard = difficulty < 0.25, difficulty >= 0.5
    assert (easy | hard).all()
    mine = of_task == which
    assert nearest(task, easy & mine) > nearest(task, hard & mine) + 20


def test_multitask_difficulty_belongs_to_its_sample() -> None:
    """The difficulty of the first digits, then of all keywords, in the order of the images."""
    difficulty = Multitask().attributes("test")["difficulty"]
    num_each = len(difficulty) // 2
    assert torch.equal(difficulty[:num_each], Digits().attributes("test")["difficulty"][:num_each])
    assert torch.equal(difficulty[num_each:], Keywords().attributes("test")["difficulty"])


def test_unseen_samples_of_multitask_are_of_both_tasks() -> None:
    """As many letters as words that are no keywords, in the shape of the task, without targets."""
    unseen = Multitask().unseen()
    assert unseen.inputs.shape == (80, *Multitask().spec.input_shape)
    assert torch.equal(unseen.inputs[:40], Digits().unseen().inputs[:40])
    assert (unseen.targets == -100).all()
    words = multitask.speech.log_mel(keywords.unseen_words().inputs.numpy(), 16, multitask.HOP)
    assert torch.equal(unseen.inputs[40:, 0], (words - keywords.MEAN) / keywords.DEVIATION)
