"""What foreign text loses before it is kept or shown: secrets, a terminal's commands, length.

redact(text)            without secrets and bounded: for everything that is written
printable(text)         one line without control characters
without_secrets(...)    the environment that a trial gets
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from urllib.parse import quote

from bench.values import encodable

# Not GIT_AUTHOR_NAME, and not the path of a file in XAUTHORITY.
SECRET_NAME = re.compile(
    r"KEY|TOKEN|SECRET|PASSW|PASSPHRASE|CREDENTIAL|AUTH(?!OR(?!IZ))", re.IGNORECASE
)
# Settings of devices, batch systems and loaders, and one of tokenizers: their names match only.
NO_SECRET = re.compile(r"(?:CUDA|NVIDIA|NCCL|SLURM|LD|TOKENIZERS)_")
SHORTEST_SECRET = 8  # characters: a variable MY_KEY=1 must not blot out every 1
NO_WIDTH = "\u200b"  # a space that is not seen, and ends an address
ADDRESS = re.compile(r"(?i)\b((?:https?|ftp|file|data|mailto|tel|javascript|vbscript):|www(?=\.))")
MAX_CHARACTERS = 200_000  # of a text that is looked through for patterns
# Lengths are bounded: an open-ended pattern takes hours for a megabyte of "a-a-a-".
SECRETS = (
    re.compile(
        r"(?i)\b([\w-]{0,60}?(?:key|token|secret|passw\w{0,9}|passphrase|credential\w{0,9})[\"']?"
        r"\s{0,9}[=:]\s{0,9})[^\s,;]+"
    ),
    re.compile(r"(?i)\b(bearer\s{1,9})\S+"),
    re.compile(r"(://)[^/\s:@]{1,200}:[^/\s@]{1,500}(?=@)"),
    re.compile(r"()\b(?:[0-9a-f]{40,}|(?:hf|ghp|gho|github_pat|wandb_v1|sk)[_-][\w-]{16,})"),
)


def is_secret(name: str) -> bool:
    """Whether a variable of this name holds a key, by its name."""
    return bool(SECRET_NAME.search(name)) and not NO_SECRET.match(name)


def without_secrets(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The variables without those that hold a key: what foreign code starts with."""
    return {name: value for name, value in environ.items() if not is_secret(name)}


def redact(text: str, environ: Mapping[str, str] = os.environ) -> str:
    """`text` without what looks like a key, and without secret values of `environ`.

    A text of more than MAX_CHARACTERS loses its middle. Lone surrogates are escaped: a record and a
    log are UTF-8.
    """
    # Bounded after the values, none of which is cut in two here.
    text = bounded(redact_values(text, environ), MAX_CHARACTERS)
    for pattern in SECRETS:
        text = pattern.sub(r"\1***", text)
    # Last: an escaped surrogate inside a secret would no longer match the variable's value.
    return encodable(text)


def redact_values(text: str, environ: Mapping[str, str] = os.environ) -> str:
    """`text` without the values of secret variables; nothing is guessed by its look."""
    for value in _secret_values(environ):
        text = text.replace(value, "***")
    return text


def _secret_values(environ: Mapping[str, str]) -> Iterator[str]:
    """The values to look for, as they are, line by line, and as they stand in a repr or a URL."""
    for name, value in environ.items():
        if is_secret(name):
            lines = value.split("\n") if "\n" in value else []  # a log is read line by line
            escaped = encodable(value)
            forms = (value, repr(value)[1:-1], quote(escaped, safe=""), *lines)
            # The longest first: a part of it must not be replaced before it.
            yield from sorted({f for f in forms if len(f) >= SHORTEST_SECRET}, key=len)[::-1]


def bounded(text: str, max_characters: int) -> str:
    """`text`, with its middle cut out and counted where it is longer."""
    if len(text) <= max_characters:
        return text
    half = max_characters // 2
    return f"{text[:half]} [{len(text) - 2 * half:,} characters cut] {text[-half:]}"


def unlinked(text: str) -> str:
    """`text` in which no reader of Markdown finds an address: they link bare ones too."""
    return ADDRESS.sub(rf"\1{NO_WIDTH}", text)


def printable(text: str) -> str:
    """One line without control characters and lone surrogates, which a terminal might obey."""
    return "".join(char if char.isprintable() else " " for char in text)


def printable_lines(text: str) -> str:
    """The same, line by line."""
    return "\n".join(map(printable, text.split("\n")))
