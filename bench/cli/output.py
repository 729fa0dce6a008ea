"""What a verb prints: without the values of secret variables, in whatever encoding the output has.

with safe_output():
    print("saves \u00b1 3 %")       "saves +/-3 %" where the output is ASCII
"""

from __future__ import annotations

import codecs
import io
import sys
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from bench.records.redaction import redact_values

ERRORS = "condbench.nearest"  # of an encoding, beside Python's own "strict" and "replace"
SIGNS = {"\u00b1": "+/-", "\u2192": "->", "\u2265": ">=", "\u2264": "<=", "\u00d7": "x"}


@contextmanager
def safe_output() -> Iterator[None]:
    """Standard output and error of the block."""
    codecs.register_error(ERRORS, _nearest)
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (_safe(stream) for stream in before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


class Safe:
    """A stream that writes no value of a secret variable; all else is the stream's own."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write `text` without secrets; returns the number of characters given."""
        self._stream.write(redact_values(text))
        return len(text)

    def writelines(self, lines: list[str]) -> None:
        """Write several texts in the same way."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _safe(stream: Any) -> Any:
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors=ERRORS)
    # A process may be started with its output closed: there is no stream then.
    return None if stream is None else Safe(stream)


def _nearest(error: UnicodeError) -> tuple[str, int]:
    """ASCII for characters that the encoding does not have: a letter without its accent, else ?."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_ascii, error.object[error.start : error.end])), error.end


def _ascii(char: str) -> str:
    plain = unicodedata.normalize("NFKD", char).encode("ascii", "ignore").decode()
    return SIGNS.get(char) or plain or "?"
