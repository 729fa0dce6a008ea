"""Foreign text without keys, by look and by value, and without a terminal's commands."""

from __future__ import annotations

from string import ascii_letters

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.records.redaction import printable, printable_lines, redact


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("WANDB_API_KEY=0123abcd", "WANDB_API_KEY=***"),
        ('{"token": "abc", "n": 3}', '{"token": ***, "n": 3}'),
        ("password: hunter2 and more", "password: *** and more"),
        ("Authorization: Bearer abc.def", "Authorization: Bearer ***"),
        ("git clone https://me:secret@host/x", "git clone https://***@host/x"),
        ("login with " + "a1" * 20, "login with ***"),
        ("hf_" + "Q" * 30 + " was refused", "*** was refused"),
        ("KeyError: 'labels'", "KeyError: 'labels'"),
        ("loss=2.5 num_tokens 512", "loss=2.5 num_tokens 512"),
    ],
)
def test_redact_by_look(text, kept) -> None:
    """What looks like a key, a token or a password goes; ordinary messages stay."""
    assert redact(text, {}) == kept


@given(st.text(ascii_letters, min_size=8), st.text(), st.text())
def test_redact_by_value(secret, before, after) -> None:
    """The value of a secret variable never stays in a text, whatever stands around it."""
    assert secret not in redact(before + secret + after, {"MY_TOKEN": secret})


def test_redacted_text_can_be_written() -> None:
    """A byte that was no UTF-8 is escaped, also beside a secret that has one."""
    text = redact("caf\udce9 with s3cret\udce9\udce9", {"MY_TOKEN": "s3cret\udce9\udce9"})
    assert text.encode("utf-8") == b"caf\\udce9 with ***"


def test_short_values_are_left_alone() -> None:
    """A variable MY_KEY=1 does not blot out every 1."""
    assert redact("layer 1", {"MY_KEY": "1"}) == "layer 1"


@given(st.text())
def test_what_is_shown_holds_no_command(text) -> None:
    """Only line breaks are left of control characters, and those only where they are wanted."""
    assert printable(text).isprintable()
    assert printable_lines(text).replace("\n", "").isprintable()


def test_printable_words_stay_as_they_are() -> None:
    """Letters of every script, and signs, are no commands."""
    assert printable("naïve 模型 ≥ 2x 🙂") == "naïve 模型 ≥ 2x 🙂"
    assert printable_lines("a\nb\tc") == "a\nb c"
