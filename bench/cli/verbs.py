"""What each verb does: one function per verb, `(parsed arguments) -> exit code`.

Every import of a heavy module stands inside the function that needs it. Functions look their
callees up when they run, so that a test can replace them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.records.redaction import printable, printable_lines, redact


class UsageError(Exception):
    """Bad usage or input: one message with what is wrong, where, and how to fix it."""


@contextmanager
def as_usage_errors(*errors: type[Exception]) -> Iterator[None]:
    """Turn the expected `errors` of the block into UsageError; anything else stays a traceback."""
    try:
        yield
    except errors as error:
        # str() of an OSError begins with "[Errno 2]"; the path and the cause are enough.
        if isinstance(error, OSError) and error.filename is not None:
            raise UsageError(f"{error.filename}: {error.strerror}") from error
        raise UsageError(str(error)) from error


def run(arguments: argparse.Namespace) -> int:
    """Plan, run and report a matrix of trials."""
    from bench.plan.matrix import PlanError
    from bench.plan.staleness import Foreign
    from bench.run import Unreadable, Unwritable, run

    # A failed trial is no exception: it is in the exit code that run() returns.
    with as_usage_errors(PlanError, Foreign, Unwritable, Unreadable):
        return run(arguments.overrides, plan_only=arguments.plan)


def report(arguments: argparse.Namespace) -> int:
    """Rebuild the report of result folders; unreadable records are listed on standard error."""
    from bench.report import NoRecords, build

    with as_usage_errors(NoRecords, OSError):
        made = build(arguments.folders, arguments.out)
    print(made.text)
    # On standard error: a pipe gets the tables only. Exit code 0, as the report was written.
    for problem in made.problems:
        print(printable(f"left out: {problem}"), file=sys.stderr)
    print("report:", *made.paths)
    return 0


def publish(arguments: argparse.Namespace) -> int:
    """Send records and nightly verdicts to W&B; 1 if any could not be sent."""
    from bench.publish.runs import NIGHT_NAME, NotSent, publish_all, publish_night

    # A nightly's folder holds a verdict, not records: it becomes a W&B run of its own.
    nights = [folder for folder in arguments.folders if (folder / NIGHT_NAME).is_file()]
    destination = f"sent to project {arguments.project} ({arguments.mode})"
    problems = []
    for folder in nights:
        try:
            with as_usage_errors(OSError, ValueError, KeyError):
                publish_night(folder, arguments.mode, arguments.project)
            print(f"{folder}: {destination}")
        except NotSent as error:  # the network may be back for the next folder
            problems.append(str(error))
    others = [folder for folder in arguments.folders if folder not in nights]
    if others:
        with as_usage_errors(FileNotFoundError):
            num_sent, unsent = publish_all(others, arguments.mode, arguments.project)
        print(f"{num_sent} records {destination}")
        problems += unsent
    for problem in problems:
        print(printable(f"not sent: {problem}"), file=sys.stderr)
    return 1 if problems else 0


def list_all(arguments: argparse.Namespace) -> int:
    """Print the available methods, backbones, tasks and experiments."""
    from bench.listing import listing
    from bench.plugins import PluginError

    with as_usage_errors(PluginError):
        # Line by line: the first ones appear while later plugins are still being imported.
        for line in listing():
            print(printable(redact(line)))  # a broken plugin's own words among them
    return 0


def compare(arguments: argparse.Namespace) -> int:
    """Compare two runs, two revisions, or this tree with the golden trials."""
    from bench.regress.compare import compare
    from bench.regress.verdict import BadInput

    # The exit codes 1, 3 and 4 are verdicts and come from the comparison itself.
    with as_usage_errors(BadInput, OSError):
        return compare(arguments)


def nightly(arguments: argparse.Namespace) -> int:
    """Compare two revisions, interleaved on this machine, and extend the history."""
    from bench.regress.nightly import nightly
    from bench.regress.verdict import BadInput

    with as_usage_errors(BadInput, OSError):
        return nightly(arguments.overrides, simulate=arguments.simulate)


def trend(arguments: argparse.Namespace) -> int:
    """Plot the history of past nightly runs."""
    from bench.regress.history import BadHistory
    from bench.regress.trend import trend

    with as_usage_errors(BadHistory, OSError):
        paths = trend(arguments.path, arguments.out)
    print("trend:", *paths)
    return 0


def doctor(arguments: argparse.Namespace) -> int:
    """Examine this machine and run the self-test of the meters."""
    from bench.selftest.doctor import as_json, as_text, examine_and_test, exit_code

    # The default results folder: its free space is one of the findings.
    findings = examine_and_test(Path("results"))
    print(as_json(findings) if arguments.json else as_text(findings))
    return exit_code(findings)


def new(arguments: argparse.Namespace) -> int:
    """Create and install a method package; 1 if it was written but pip failed."""
    from bench.plugins import PluginError
    from bench.scaffold import BadName, install, write

    with as_usage_errors(BadName, PluginError, OSError):
        place = write(arguments.name, arguments.into)
    problem = install(place)
    if problem:  # 1 and not 2: the name is valid and the package can be installed by hand
        why = printable_lines(redact(problem))  # pip quotes the addresses of indexes
        print(f"condbench: written to {place}, but not installed: {why}", file=sys.stderr)
        return 1
    name = arguments.name
    print(f"Created {place / f'{name}.py'}, installed in editable mode. Next:")
    print(f"  condbench check {name}")
    print(f"  condbench run method={name} task=digits")
    return 0


def check(arguments: argparse.Namespace) -> int:
    """Test methods, backbones and tasks against the contract; 1 if any breaks it."""
    from bench.plan.compose import variants
    from bench.plan.explain import PlanError
    from bench.plugins import PluginError

    # All names are resolved before anything is tried: a misspelt one fails within seconds. The
    # settings are composed as for a run, so that the kit builds what a trial builds.
    with as_usage_errors(PluginError, PlanError):
        found = [each for name in arguments.names for each in variants(name)]
    from bench.check import check

    verdicts = []
    for plugin, settings in found:
        with as_usage_errors(PluginError):
            # Flushed: a contract takes up to seconds, and its line appears when it has ended.
            verdicts.append(check(plugin, settings, _print_foreign))
    return 0 if all(verdict.ok for verdict in verdicts) else 1


def _print_foreign(line: str) -> None:
    """Print what may quote a plugin, at once."""
    print(printable_lines(redact(line)), flush=True)
