"""What foreign text loses before it is kept or shown: keys, passwords, a terminal's commands."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from bench.values import encodable

SECRET_NAME = re.compile(r"KEY|TOKEN|SECRET|PASSW|CREDENTIAL|AUTH", re.IGNORECASE)
SHORTEST_SECRET = 8  # characters: a variable MY_KEY=1 must not blot out every 1
SECRETS = (
    re.compile(
        r"(?i)\b([\w-]*(?:key|token|secret|passw\w*|credential\w*)[\"']?\s*[=:]\s*)[^\s,;]+"
    ),
    re.compile(r"(?i)\b(bearer\s+)\S+"),
    re.compile(r"(://)[^/\s:@]+:[^/\s@]+(?=@)"),
    re.compile(r"()\b(?:[0-9a-f]{40,}|(?:hf|ghp|gho|github_pat|wandb_v1|sk)[_-][\w-]{16,})"),
)


def redact(text: str, environ: Mapping[str, str] = os.environ) -> str:
    """`text` without what looks like a key, and without secret values of `environ`.

    Lone surrogates are escaped: a record and a log are UTF-8.
    """
    for name, value in environ.items():
        if SECRET_NAME.search(name) and len(value) >= SHORTEST_SECRET:
            text = text.replace(value, "***")
    for pattern in SECRETS:
        text = pattern.sub(r"\1***", text)
    # Last: an escaped surrogate inside a secret would no longer match the variable's value.
    return encodable(text)


def printable(text: str) -> str:
    """One line without control characters and lone surrogates, which a terminal might obey."""
    return "".join(char if char.isprintable() else " " for char in text)


def printable_lines(text: str) -> str:
    """The same, line by line."""
    return "\n".join(map(printable, text.split("\n")))
