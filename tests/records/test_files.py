"""Files that anybody may have written: regular, bounded, strict JSON; all else is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.records.files import MAX_BYTES, MAX_DEPTH, open_regular, parse_json, read_json
from tests.fakes.odd_files import ODDITIES, at_most, put


@pytest.mark.parametrize("oddity", ODDITIES)
def test_nothing_in_the_place_of_a_file_is_waited_for(tmp_path: Path, oddity: str) -> None:
    """A FIFO, a device without an end, a folder, a terabyte: OSError or ValueError at once."""
    path = tmp_path / "record.json"
    put(oddity, path)
    with at_most(30), pytest.raises((OSError, ValueError)):
        read_json(path)


def test_a_link_to_a_regular_file_is_read(tmp_path: Path) -> None:
    """Results may be linked from elsewhere."""
    (tmp_path / "there").write_text("[1]")
    (tmp_path / "here").symlink_to(tmp_path / "there")
    assert read_json(tmp_path / "here") == [1]


def test_a_device_is_not_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening alone may rewind a tape, so the kind is looked at first."""

    def refuse(*arguments: object) -> int:
        raise AssertionError("opened")

    monkeypatch.setattr("os.open", refuse)
    with pytest.raises(OSError, match="not a regular file"):
        open_regular(Path("/dev/null"))


def test_a_file_is_read_up_to_a_size(tmp_path: Path) -> None:
    """Of one byte more nothing is parsed."""
    path = tmp_path / "large.json"
    path.write_bytes(b" " * (MAX_BYTES - 1) + b"1")
    assert read_json(path) == 1
    path.write_bytes(b" " * MAX_BYTES + b"1")
    with pytest.raises(OSError, match="larger than"):
        read_json(path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[" * 100_000, "nested"),
        ('{"a":' * 100_000, "nested"),
        ("[" * 500 + "]" * 500, "nested"),  # Python's own limit is 1,000
        ('{"a": 1, "a": 1}', "key 'a' stands there twice"),
        ('[{"b": {"a": 1, "a": 2}}]', "key 'a' stands there twice"),
        ("[NaN]", "NaN is not JSON"),
        ("[-Infinity]", "-Infinity is not JSON"),
        ("[1e999]", "too large"),
        ("-1E+400", "too large"),
        ("[" + "1" * 400 + "]", "too large"),
        ("1" * 5000, "digits"),
        ('["\\ud800"]', "surrogate"),
        ('{"\\uDFFF": 1}', "surrogate"),
        ("{", "Expecting"),
        ("", "Expecting"),
    ],
)
def test_what_is_not_strict_json_is_a_value_error(text: str, words: str) -> None:
    """Python's parser would take most of it, and a reader would fail later or count it."""
    with pytest.raises(ValueError, match=words):
        parse_json(text)


def test_what_is_strict_json_is_taken() -> None:
    """The limits leave room: depth 64, the largest float, a pair of surrogates, equal siblings."""
    depth = MAX_DEPTH - 1
    assert parse_json("[" * depth + "1" + "]" * depth)
    assert parse_json("[1.7976931348623157e308, 1e-999]") == [1.7976931348623157e308, 0.0]
    assert parse_json('["\\ud83d\\ude00"]') == ["\U0001f600"]
    assert parse_json('[{"a": 1}, {"a": 2}]') == [{"a": 1}, {"a": 2}]
