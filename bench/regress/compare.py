"""`condbench compare`: folders, revisions or golden trials, one verdict, one exit code."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bench.records.record import write_json
from bench.records.replacing import replace_file
from bench.regress.markdown import body
from bench.regress.verdict import BadInput, Verdict

BODY, VERDICT = "body.md", "verdict.json"
EXPERIMENT = "experiment=nightly"


def compare(arguments: argparse.Namespace) -> int:
    """Run the comparison that the command line names; its exit code.

    Raises BadInput for arguments that do not go together, and OSError where nothing can be written.
    """
    sides: list[str] = arguments.sides
    if arguments.exact:
        _check_exact(arguments)
        return _compare_golden(sides, update=arguments.update)
    # Silently ignored options would leave the impression that they took effect.
    if arguments.update:
        raise BadInput("--update rewrites golden trials: condbench compare --exact --update")
    if len(sides) < 2 or (len(sides) > 2 and not arguments.rev):
        raise BadInput("compare needs BASELINE and CANDIDATE; condbench compare --help")
    if arguments.rev:
        if arguments.rerun:
            raise BadInput("--rerun is for folders: --rev confirms regressions itself")
        verdict = _compare_revisions(sides[0], sides[1], sides[2:])
    else:
        # Imported here: `--help` and the other comparisons need no numpy.
        from bench.regress.folders.compare import compare_folders

        verdict = compare_folders(Path(sides[0]), Path(sides[1]), arguments.rerun)
    print(body(verdict), end="")
    if arguments.out:
        print("written:", *write_verdict(verdict, arguments.out), file=sys.stderr)
    return verdict.exit_code


def _check_exact(arguments: argparse.Namespace) -> None:
    """Raise BadInput for options that do not apply to golden trials."""
    for name in ("rev", "rerun", "out"):
        if getattr(arguments, name):
            raise BadInput(f"--{name} does not go with --exact, which compares golden trials")


def write_verdict(verdict: Verdict, out: Path) -> list[Path]:
    """Write body.md and verdict.json into `out`, made if it is not there; their paths."""
    out.mkdir(parents=True, exist_ok=True)
    text = replace_file(out / BODY, body(verdict).encode("utf-8", "replace"))
    return [text, write_json(out / VERDICT, verdict.content())]


def with_default_experiment(overrides: list[str]) -> list[str]:
    """The overrides, with the nightly's experiment unless they choose the trials themselves."""
    # An exact name: `method.num_experts=4` changes a trial and chooses none.
    chosen = {text.partition("=")[0] for text in overrides}
    return overrides if chosen & {"experiment", "task", "method"} else [EXPERIMENT, *overrides]


def report_progress(line: str) -> None:
    """One line to stderr at once; stdout holds the body alone."""
    print(line, file=sys.stderr, flush=True)


def _compare_revisions(baseline: str, candidate: str, overrides: list[str]) -> Verdict:
    # Imported here: only this comparison needs devices and worktrees.
    from bench.regress.revisions.compare import compare_revisions

    chosen = with_default_experiment(overrides)
    return compare_revisions(Path(), baseline, candidate, chosen, report_progress=report_progress)


def _compare_golden(words: list[str], *, update: bool) -> int:
    from bench.regress.golden.compare import compare_golden

    # As on the command line of `run`: a word with "=" is an override.
    folders = [word for word in words if "=" not in word]
    if len(folders) > 1:
        raise BadInput("compare --exact takes at most one folder, that of the golden trials")
    overrides = [word for word in words if "=" in word]
    return compare_golden(Path(folders[0]) if folders else None, overrides, update=update)
