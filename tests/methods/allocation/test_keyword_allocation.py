"""Keyword-driven allocation: what is a keyword, and what others run."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from bench import routing
from bench.types import Batch, Unsupported
from methods.allocation.keyword_allocation import KeywordAllocation, KeywordModel, runs_rest
from methods.parts.allocation.keywords import SymbolCounts, find_symbols, pick, read_keywords

LETTERS = tuple("abcdefghijk")  # the tiny tasks have 11 symbols


def make_model(tiny, keywords: list[int], **settings) -> KeywordModel:
    """A model whose keywords are these symbols, in inference mode."""
    model = KeywordAllocation(**settings).build(tiny.spec, tiny.backbone).eval()
    model.keywords.fill_(False)
    model.keywords[keywords] = True
    model.found.fill_(True)
    return model


def named(tiny):
    """The task's spec with letters as symbols."""
    return dataclasses.replace(tiny.spec, symbols=LETTERS)


def write(folder, content: bytes) -> str:
    """The path of a file with this content."""
    path = folder / "words.txt"
    path.write_bytes(content)
    return str(path)


def test_surprisal_by_hand() -> None:
    """Counts 5, 2, 0 plus one each are 6, 3, 1 of 10: -log2 gives 0.737, 1.737 and 3.322 bits."""
    counts = SymbolCounts(3)
    counts.add(
        torch.tensor([[0, 0, 0, 1], [0, 0, 1, 2]]),
        torch.tensor([[1] * 4, [1, 1, 1, 0]]) > 0,
        torch.zeros(2),
    )
    assert counts.occurrences.tolist() == [5, 2, 0]
    expected = [-math.log2(0.6), -math.log2(0.3), -math.log2(0.1)]
    assert counts.surprisal().tolist() == pytest.approx(expected)


def test_class_information_by_hand() -> None:
    """Four samples of two classes: a symbol in both of one class tells 1 bit, one in all tells 0.

    A symbol in one sample of class 0: H(C) - H(C | held) = 1 - 3/4 H(1/3) = 1 - 0.75 x 0.918 bits.
    """
    counts = SymbolCounts(3, 2)
    symbols = torch.tensor([[0, 1, 2], [0, 1, 1], [1, 1, 1], [1, 1, 1]])
    counts.add(symbols, None, torch.tensor([0, 0, 1, 1]))
    information = counts.class_information()
    third = -(math.log2(1 / 3) + 2 * math.log2(2 / 3)) / 3
    assert information.tolist() == pytest.approx([1.0, 0.0, 1 - 0.75 * third], abs=1e-6)
    halves = SymbolCounts(3, 2)  # batch by batch
    for rows in ([0, 1], [2, 3]):
        halves.add(symbols[rows], None, torch.tensor([0, 0, 1, 1])[rows])
    torch.testing.assert_close(halves.class_information(), information)


def test_the_highest_scores_that_fit_are_picked() -> None:
    """10 tokens, 0.4 of them: symbol 3 (1 token) fits, 0 (5) does not, 2 (3) does, 1 does not."""
    scores, occurrences = torch.tensor([3.0, 1.0, 2.0, 4.0]), torch.tensor([5.0, 1.0, 3.0, 1.0])
    assert pick(scores, occurrences, 0.4).tolist() == [False, False, True, True]
    assert pick(scores, occurrences, 0.01).tolist() == [False, False, False, True]  # at least one


def test_blocks_of_the_rest_are_spread_evenly() -> None:
    """Of four blocks: a half are 0 and 2, a quarter is 0, three quarters are 0, 1, 2; or none."""
    run = {s: [i for i in range(4) if runs_rest(i, s)] for s in (0.0, 0.25, 0.5, 0.75, 1.0)}
    assert run == {0.0: [], 0.25: [0], 0.5: [0, 2], 0.75: [0, 1, 2], 1.0: [0, 1, 2, 3]}


def test_keywords_run_everything_and_others_a_share(tiny_text) -> None:
    """Symbols 1 and 4 run four blocks, all others the first and the third."""
    model, batch = make_model(tiny_text, [1, 4]), tiny_text.batch(3)
    with routing.observe() as seen:
        model(batch)
    depth = torch.stack([d.run for d in seen.decisions]).sum(0)
    is_keyword = (batch.inputs == 1) | (batch.inputs == 4)
    assert torch.equal(depth, torch.where(is_keyword, 4, 2))


def test_decisions_are_the_same_in_training(tiny_labels) -> None:
    """Nothing is drawn: training skips what inference skips."""
    model, batch = make_model(tiny_labels, [2, 3]), tiny_labels.batch(4)
    with routing.observe() as first:
        model(batch)
    with routing.observe() as second:
        model.train()(batch)
    pairs = zip(first.decisions, second.decisions, strict=True)
    assert all(torch.equal(a.run, b.run) for a, b in pairs)


def test_a_decoders_keywords_are_what_it_reads(tiny_pairs) -> None:
    """Of a pair the decoder's tokens run by the decoder's symbols."""
    model, batch = make_model(tiny_pairs, [1], shares=[0.0]), tiny_pairs.batch(4)
    with routing.observe() as seen:
        model(batch)
    assert torch.equal(seen.decisions[0].run, batch.decoder_inputs == 1)


def test_symbols_are_counted_in_the_first_fifth_of_training(tiny_text) -> None:
    """Until then every token is a keyword; afterwards nothing is counted any more."""
    method = KeywordAllocation()
    model = method.build(tiny_text.spec, tiny_text.backbone).train()
    for progress, num_counted, is_found in ((0.0, 128, False), (0.1, 256, False), (0.3, 256, True)):
        method.loss(model, tiny_text.batch(8), tiny_text.criterion, progress)
        assert model.counts.occurrences.sum() == num_counted
        assert model.is_found == is_found
    share = (model.counts.occurrences * model.keywords).sum() / 256
    assert 0 < share <= 0.2
    before = model.keywords.clone()
    method.calibrate(model, [tiny_text.batch(8, 5)])
    assert torch.equal(model.keywords, before)


def test_without_training_held_out_data_are_counted(tiny_labels) -> None:
    """Where training finds no keywords, calibration does."""
    method = KeywordAllocation(train_share=0.0)
    model = method.build(tiny_labels.spec, tiny_labels.backbone).eval()
    assert model.keywords.all()
    method.calibrate(model, [tiny_labels.batch(32)])
    assert model.is_found
    assert model.by_classes
    assert 0 < model.keywords.sum() < 11


def test_a_users_list(tiny_text, tmp_path) -> None:
    """One keyword a line, with a byte order mark, Windows line ends, a blank line and a repeat."""
    path = write(tmp_path, b"\xef\xbb\xbfb\r\n\r\nd\r\nb\r\n")
    model = KeywordAllocation(keyword_file=path).build(named(tiny_text), tiny_text.backbone)
    model.add(tiny_text.batch(8))
    model.find_keywords()
    assert model.keywords.nonzero().flatten().tolist() == [1, 3]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read .No such file"),
        (b"", "is empty"),
        (b"\n\n", "is empty"),
        ("gro\xdf".encode("latin-1"), "is not UTF-8 at byte 3"),
        ("gro".encode("utf-16"), "is not UTF-8 at byte 0"),
    ],
)
def test_a_bad_file_gets_a_sentence(tmp_path, content, message: str) -> None:
    """Missing, empty or in another encoding: ValueError when the settings are made."""
    path = str(tmp_path / "none.txt") if content is None else write(tmp_path, content)
    with pytest.raises(ValueError, match=message):
        KeywordAllocation(keyword_file=path)


def test_keywords_that_never_occur_get_a_sentence(tiny_text, tmp_path) -> None:
    """Words that are no symbols are named; symbols of which none was met in training, too."""
    path = write(tmp_path, b"b\nzebra\n")
    with pytest.raises(ValueError, match=r"1 of 2 keywords never occur.*'zebra'"):
        KeywordAllocation(keyword_file=path).build(named(tiny_text), tiny_text.backbone)
    method = KeywordAllocation(keyword_file=write(tmp_path, b"b\n"))
    model = method.build(named(tiny_text), tiny_text.backbone)
    model.add(Batch(torch.zeros(2, 3).long(), torch.zeros(2, 3).long()))
    with pytest.raises(ValueError, match="never occur in the 6 tokens counted"):
        model.find_keywords()
    with pytest.raises(ValueError, match=r"6 of 6 .*'1', '2', '3', '4', '5', \.\.\."):
        find_symbols(list("123456"), LETTERS, "x")
    assert read_keywords(write(tmp_path, b" \n")) == [" "]  # a space is a symbol of a text


def test_what_has_no_symbols_is_unsupported(tiny_image, tiny_text, tmp_path) -> None:
    """Images have none, a text has no classes, and a list needs names of symbols."""
    for tiny, settings, reason in (
        (tiny_image, {}, "images? tasks have none"),
        (tiny_text, {"by": "classes"}, "one label"),
        (tiny_text, {"keyword_file": write(tmp_path, b"b\n")}, "names no symbols"),
    ):
        with pytest.raises(Unsupported, match=reason):
            KeywordAllocation(**settings).build(tiny.spec, tiny.backbone)
