"""The command line: one verb per call, one message per error, one exit code.

    arguments   the table of verbs: names, help texts, argparse definitions
    output      encodings and secrets of what is printed
    verbs       what each verb does
    __main__    `python -m bench.cli`, which tests and batch scripts call

`condbench --help` must stay fast: heavy modules (torch, hydra, pandas) are imported inside the
functions of `verbs` only, never at the top of a file of this package.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from bench.cli.arguments import PRINT_ONLY, parser
from bench.cli.output import safe_output
from bench.cli.verbs import UsageError
from bench.records.redaction import printable_lines, redact

USAGE_ERROR = 2
# What a rerun of an interrupted verb begins with; the others only print.
KEPT = {
    "run": "; rerun to resume",
    **dict.fromkeys(("compare", "nightly"), "; nothing was kept: a rerun begins anew"),
}
INTERRUPTED = 130  # 128 + SIGINT, as shells report it


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb and return its exit code; `arguments` default to the process's own."""
    with safe_output():
        return _main(arguments)


def _main(arguments: Sequence[str] | None) -> int:
    # Known arguments only: overrides behind an option are left over (see below).
    parsed, rest = parser().parse_known_args(arguments)
    try:
        _append_overrides(parsed, rest)
        return int(parsed.execute(parsed))
    except UsageError as error:
        # Messages quote plugins and files, which may hold a terminal's escape sequences.
        print(printable_lines(redact(f"condbench: {error}")), file=sys.stderr)
        return USAGE_ERROR
    except KeyboardInterrupt:
        # The launcher has ended its trials already; here only the exit code is left.
        print(f"condbench: interrupted{KEPT.get(parsed.verb, '')}", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        return _close_output(parsed)


def _append_overrides(parsed: argparse.Namespace, rest: Sequence[str]) -> None:
    """Add what argparse left over to the overrides of `run`. Raises UsageError for other verbs.

    argparse ends a list of positional arguments at the first option: in `run a=1 --plan b=2` it
    leaves `b=2` over.
    """
    unknown = [word for word in rest if parsed.verb != "run" or word.startswith("-")]
    if unknown:
        raise UsageError(f"unknown argument {unknown[0]!r}; see condbench {parsed.verb} --help")
    if rest:
        parsed.overrides += rest


def _close_output(parsed: argparse.Namespace) -> int:
    """Handle a closed output pipe (`condbench ... | head`) and return the exit code.

    0 where printing was all that the verb does; 1 where work may have been cut short.
    """
    # Python flushes stdout at exit and would raise once more: give it a descriptor that accepts.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if parsed.verb in PRINT_ONLY or getattr(parsed, "plan", False):
        return 0
    way_on = "; rerun to resume" if parsed.verb == "run" else ""
    print(f"condbench: output pipe closed{way_on}", file=sys.stderr)
    return 1
