"""`condbench compare`: folders, revisions or golden trials, one verdict, one exit code."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bench.records.record import write_json
from bench.regress.markdown import body
from bench.regress.sides import BadInput
from bench.regress.verdict import Verdict

BODY, VERDICT = "body.md", "verdict.json"
EXPERIMENT = "experiment=nightly"


def compare(arguments: argparse.Namespace) -> int:
    """Run what the command line asks for; the exit code. Raises BadInput and OSError."""
    sides: list[str] = arguments.sides
    if arguments.exact:
        _refuse_with_exact(arguments)
        return _exact(sides, update=arguments.update)
    if arguments.update:
        raise BadInput("--update rewrites golden trials: condbench compare --exact --update")
    if len(sides) < 2 or (len(sides) > 2 and not arguments.rev):
        raise BadInput("compare needs BASELINE and CANDIDATE; condbench compare --help")
    if arguments.rev:
        if arguments.rerun:
            raise BadInput("--rerun is for folders: --rev confirms regressions itself")
        verdict = _revisions(sides[0], sides[1], sides[2:])
    else:
        from bench.regress.folders import compare_folders

        verdict = compare_folders(Path(sides[0]), Path(sides[1]), arguments.rerun)
    print(body(verdict), end="")
    if arguments.out:
        print("written:", *write(verdict, arguments.out), file=sys.stderr)
    return verdict.exit_code


def _refuse_with_exact(arguments: argparse.Namespace) -> None:
    """Raise BadInput for options that golden trials have no use for."""
    for name in ("rev", "rerun", "out"):
        if getattr(arguments, name):
            raise BadInput(f"--{name} does not go with --exact, which compares golden trials")


def write(verdict: Verdict, out: Path) -> list[Path]:
    """body.md and verdict.json in `out`, made if it is not there; their paths."""
    out.mkdir(parents=True, exist_ok=True)
    text = out / BODY
    text.write_text(body(verdict), encoding="utf-8")
    return [text, write_json(out / VERDICT, verdict.content())]


def asked(overrides: list[str]) -> list[str]:
    """The overrides with the nightly's experiment where they name neither one nor a task."""
    named = {text.partition("=")[0] for text in overrides}
    return overrides if named & {"experiment", "task", "method"} else [EXPERIMENT, *overrides]


def _revisions(baseline: str, candidate: str, overrides: list[str]) -> Verdict:
    from bench.regress.revisions.night import compare_revisions

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    return compare_revisions(Path(), baseline, candidate, asked(overrides), say=say)


def _exact(words: list[str], *, update: bool) -> int:
    from bench.regress.golden.command import exact

    folders = [word for word in words if "=" not in word]
    if len(folders) > 1:
        raise BadInput("compare --exact takes at most one folder, that of the golden trials")
    overrides = [word for word in words if "=" in word]
    return exact(Path(folders[0]) if folders else None, overrides, update=update)
