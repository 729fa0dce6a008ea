"""Texts without keys: by their look, and by the values of secret-looking variables."""

from __future__ import annotations

from string import ascii_letters

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.redaction import redact


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


def test_short_values_are_left_alone() -> None:
    """A variable MY_KEY=1 does not blot out every 1."""
    assert redact("layer 1", {"MY_KEY": "1"}) == "layer 1"
