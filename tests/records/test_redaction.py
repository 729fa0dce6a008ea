"""Foreign text without keys, by look and by value, and without a terminal's commands."""

from __future__ import annotations

from string import ascii_letters
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.records.redaction import (
    MAX_CHARACTERS,
    NO_WIDTH,
    is_secret,
    printable,
    printable_lines,
    redact,
    unlinked,
    without_secrets,
)
from tests.fakes.odd_files import at_most


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


@pytest.mark.parametrize("unit", ["a-", "key", "://a:", "x", "token=", "-----", "a@", "hf_"])
def test_a_long_text_takes_no_time(unit) -> None:
    """10 MB without a space: no pattern tries every place against every other."""
    with at_most(60):
        text = redact(unit * (10_000_000 // len(unit)), {})
    assert "characters cut" in text
    assert len(text) < 2 * MAX_CHARACTERS


def test_a_secret_at_the_cut_is_gone() -> None:
    """Values are replaced before the middle of a long text is cut out."""
    around = "x" * (MAX_CHARACTERS // 2 - 5)
    assert "correct" not in redact(
        around + "correct horse" + around * 3, {"MY_KEY": "correct horse"}
    )


@pytest.mark.parametrize("secret", ["pass/word+1=2", "qu'ote\\d word", "caf\xe9 au lait"])
def test_a_secret_is_found_as_it_is_quoted(secret) -> None:
    """In a URL, and in the repr of a dict."""
    environ = {"MY_PASSWORD": secret}
    assert quote(secret, safe="") not in redact(
        f"https://host/?p={quote(secret, safe='')}", environ
    )
    assert repr(secret)[1:-1] not in redact(str({"a": secret}), environ)


def test_which_variables_are_secret() -> None:
    """By a part of the name; settings of Slurm, CUDA and loaders are none."""
    names = (
        "HF_TOKEN",
        "aws_secret_access_key",
        "GITHUBTOKEN",
        "DB_PASSWORD",
        "HTTP_AUTHORIZATION",
    )
    assert all(map(is_secret, names))
    kept = (
        "GIT_AUTHOR_NAME",
        "XAUTHORITY",
        "SLURM_JOB_KEYS",
        "CUDA_CACHE_KEY",
        "LD_TOKEN",
        "TOKENIZERS_PARALLELISM",
        "PATH",
    )
    assert not any(map(is_secret, kept))
    assert without_secrets({"A_KEY": "1", "PATH": "/bin"}) == {"PATH": "/bin"}


@pytest.mark.parametrize(
    "address",
    ["https://evil.example/x", "javascript:alert(1)", "DATA:text/html,x", "www.evil.example"],
)
def test_an_address_is_only_text(address) -> None:
    """What follows the scheme is no longer joined to it; the words can still be read."""
    shown = unlinked(f"see {address} now")
    assert address not in shown
    assert shown.replace(NO_WIDTH, "") == f"see {address} now"


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
