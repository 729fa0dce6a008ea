"""Number words: data, greedy decoding and scores."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from num2words import num2words

from bench.tasks import numbers
from bench.tasks.numbers import Numbers, sentences
from bench.tasks.parts.decoding import BEGIN, END, PADDING, greedy
from bench.types import Batch, Output, Task


class Oracle:
    """Returns the targets, whatever its inputs, except where the first word is `wrong`."""

    def __init__(self, wrong: int = -1) -> None:
        self.wrong = wrong

    def __call__(self, batch: Batch) -> Output:
        answers = batch.targets.clamp_min(0)
        answers[batch.inputs[:, 0] == self.wrong, 1] = PADDING
        num_outputs = Numbers().spec.num_outputs
        return Output(torch.nn.functional.one_hot(answers, num_outputs).float())


class Counter:
    """Predicts its last symbol plus one, END after the sixth: depends on its own predictions."""

    num_calls = 0

    def __call__(self, batch: Batch) -> Output:
        self.num_calls += 1
        assert batch.decoder_inputs is not None
        following = (batch.decoder_inputs + 1).clamp_min(3)
        following = following.masked_fill(batch.decoder_inputs == 8, END)
        return Output(torch.nn.functional.one_hot(following, 31).float())


def test_it_is_a_seq2seq_task() -> None:
    """Source with mask, targets that end with END, decoder inputs that are the targets shifted."""
    task = Numbers()
    assert isinstance(task, Task)
    batch = task.samples()["test"]
    assert batch.inputs.shape[1:] == task.spec.input_shape
    assert batch.targets.shape[1] == task.spec.target_length
    assert batch.mask is not None
    assert torch.equal(batch.mask, batch.inputs != PADDING)
    assert batch.decoder_inputs is not None
    assert (batch.decoder_inputs[:, 0] == BEGIN).all()
    real = (batch.targets[:, :-1] >= 0) & (batch.targets[:, :-1] != END)
    assert torch.equal(batch.decoder_inputs[:, 1:][real], batch.targets[:, :-1][real])
    assert (batch.decoder_inputs[:, 1:][~real] == PADDING).all()
    assert ((batch.targets == END).sum(1) == 1).all()


def test_packages_for_scoring_are_required_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planning hashes the data: a missing package is named there, with the pip command."""
    monkeypatch.setattr(numbers, "find_spec", lambda name: None if name == "sacrebleu" else name)
    with pytest.raises(ModuleNotFoundError, match=r"sacrebleu: pip install 'condbench\[tasks\]'"):
        Numbers().data_hash()


def test_held_out_numbers_are_new() -> None:
    """No number is in two splits; all lengths of one to twelve digits occur in the test."""
    splits = numbers._numbers()
    everything = [number for part in splits.values() for number in part]
    assert len(set(everything)) == len(everything) == sum(numbers.NUM_SAMPLES.values())
    assert {len(str(number)) for number in splits["test"]} == set(range(1, 13))


def test_every_length_is_as_common_in_training_as_in_the_test() -> None:
    """Shares of each number of digits differ by at most five points: neither split has the rest."""
    shares = [
        np.bincount([len(str(number)) for number in numbers._numbers()[split]], minlength=13)
        / numbers.NUM_SAMPLES[split]
        for split in ("train", "test")
    ]
    assert np.abs(shares[0] - shares[1]).max() < 0.05


def test_targets_spell_the_number() -> None:
    """The target of a number is what num2words writes in Japanese, a space between characters."""
    first = numbers._numbers()["test"][:20]
    spelt = sentences(Numbers().samples()["test"].targets[:20])
    assert spelt == [" ".join(num2words(n, lang="ja")) for n in first]


def test_a_digits_place_depends_on_what_follows() -> None:
    """97,000 is four French words up to mille, and nine ten thousands and seven thousands."""
    assert numbers._spell(97_000, "fr") == ("quatre", "vingt", "dix", "sept", "mille")
    assert numbers._spell(97_000, "ja") == ("九", "万", "七", "千")
    assert not numbers._word_by_word(97_000)
    assert numbers._word_by_word(42)  # quarante, deux: 四 十, 二


def test_greedy_decoding_follows_the_models_own_predictions() -> None:
    """From other prefixes, decoding ends at 3 4 5 6 7 8 END, as symbol by symbol."""
    model = Counter()
    targets = torch.full((2, 10), 20)
    prefixes = torch.cat([torch.full((2, 1), BEGIN), targets[:, :-1]], dim=1)
    answers = greedy(model, Batch(torch.zeros(2, 4).long(), targets, None, prefixes))
    assert [row[: row.index(END)] for row in answers.tolist()] == [[3, 4, 5, 6, 7, 8]] * 2
    assert model.num_calls <= 10 + 1  # one to see whether it looks ahead


def test_a_correct_model_is_decoded_in_one_pass() -> None:
    """A model that is right from the true prefixes is called once, and once for the look-ahead."""
    batch = Numbers().samples()["test"].select(torch.arange(8))
    calls = []

    def model(batch: Batch) -> Output:
        calls.append(batch)
        return Oracle()(batch)

    assert sentences(greedy(model, batch)) == sentences(batch.targets)
    assert len(calls) == 1 + 1


def test_a_decoder_that_looks_ahead_starts_from_padding() -> None:
    """Its predictions are its next inputs: from the targets it would be right everywhere.

    From padding it copies padding and is right nowhere.
    """
    task = Numbers()

    def peeks(batch: Batch) -> Output:
        assert batch.decoder_inputs is not None
        following = batch.decoder_inputs.roll(-1, 1)
        following[batch.decoder_inputs.ne(PADDING) & following.eq(PADDING)] = END
        return Output(torch.nn.functional.one_hot(following, task.spec.num_outputs).float())

    batch = task.samples()["test"]
    assert torch.equal(peeks(batch).logits.argmax(-1)[:, 0], batch.targets[:, 0])
    assert task.evaluate(peeks, task.batches("test", 250)).value == 0.0


def test_an_oracle_scores_a_hundred() -> None:
    """All right: exact match 100 %, BLEU 100; the word-by-word baseline lies below."""
    task = Numbers()
    quality = task.evaluate(Oracle(), task.batches("test", 250))
    assert quality.value == 100.0
    assert quality.more["BLEU"] == pytest.approx(100.0)
    assert 5 < quality.references["word by word"] < 95


def test_one_wrong_word_costs_the_match_but_not_all_of_bleu() -> None:
    """Numbers that begin with one chosen word go wrong: exact match loses them, BLEU less."""
    task = Numbers()
    first = task.samples()["test"].inputs[:, 0]
    quality = task.evaluate(Oracle(wrong=int(first[0])), task.batches("test", 250))
    share = 100.0 * float((first == first[0]).double().mean())
    assert quality.value == pytest.approx(100.0 - share)
    assert 100 - 2 * share < quality.more["BLEU"] < 100


def test_difficulty_is_the_length_of_the_answer() -> None:
    """Japanese characters of each test number as a share of the most that fit, in data order."""
    difficulty = Numbers().attributes("test")["difficulty"]
    most = (Numbers().spec.target_length or 0) - 1  # all but <end>
    spelt = sentences(Numbers().samples()["test"].targets)
    assert difficulty.tolist() == [len(sentence.split()) / most for sentence in spelt]
    assert 0 < difficulty.min() < 0.1
    assert difficulty.max() > 0.8


def test_short_numbers_are_easy() -> None:
    """Putting word for word is right much more often on the shorter half of the test numbers."""
    difficulty = Numbers().attributes("test")["difficulty"]
    right = torch.tensor([numbers._word_by_word(n) for n in numbers._numbers()["test"]]).double()
    shorter = difficulty < difficulty.median()
    assert right[shorter].mean() > right[~shorter].mean() + 0.2
