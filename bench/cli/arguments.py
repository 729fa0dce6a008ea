"""The table of verbs, from which argparse and `--help` are built.

A new verb is one row of VERBS and one function in `bench.cli.verbs`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.cli import verbs

# Below the help of every verb: scripts and CI jobs branch on them.
EXIT_CODES = """exit codes:
  0 ok, 1 a trial failed or a metric regressed, 2 bad usage or input, 3 inconclusive,
  4 not comparable, 130 interrupted (rerun to resume)"""

# Columns are aligned by hand: the formatter below prints this text unchanged.
EXAMPLES = f"""examples:
  condbench run                                    the quickstart: table, figure, report
  condbench run --plan                             list the trials: to do, done or stale, and why
  condbench run method=moe,dense task=digits seed=0,1
  condbench run method=moe method.num_experts=4,8  sweep a setting of a method
  condbench run experiment=quickstart measure=standard retry=failed
  condbench report results/quickstart              rebuild tables and figures from the records
  condbench compare results/monday results/tuesday test for regressions
  condbench compare --rev main HEAD task=digits    the same for two revisions, interleaved here
  condbench nightly                                the same for experiment=nightly, with history
  condbench new my_gate                            create and install a method package to edit
  condbench check my_gate                          test a method against the contract (seconds)
  condbench doctor                                 report what this machine can measure
  condbench list                                   list methods, backbones, tasks, experiments

{EXIT_CODES}"""

# A selection for orientation: keys are checked by Hydra, not by argparse, and every plugin adds its
# own. docs/reference/configuration.md has them all.
RUN_HELP = """KEY=VALUE in Hydra's grammar; a comma sweeps. Default: experiment=quickstart.
  experiment, method, task, backbone, gpu (cpu, one, ddp), measure (quick, standard, publish)
  seed, train.steps, gpu.device, wandb.mode (offline, online, disabled), results, name,
  timeout_s (per trial), retry (failed, invalid), and every setting of the chosen plugins"""

# Three modes share one positional list, as argparse cannot make positionals depend on an option.
COMPARE_HELP = """BASELINE CANDIDATE: result folders written by `run`, each on one machine
with --rev: two git revisions, then KEY=VALUE as for run (default: experiment=nightly)
with --exact: [DIR of golden trials] [KEY=VALUE ... to select trials]"""

NIGHTLY_HELP = """baseline=REV (nightly-baseline), candidate=REV (HEAD), history=PATH, out=DIR
  and the overrides of `run` (experiment=nightly)"""

# Verbs whose only result is their output: a closed pipe (`| head`) is no failure for them.
PRINT_ONLY = ("report", "list", "trend")

Argument = tuple[tuple[str, ...], dict[str, Any]]  # of argparse's add_argument


@dataclass(frozen=True)
class Verb:
    """One row: its name, one line of help, the function that executes it, its arguments."""

    name: str
    about: str
    execute: Callable[[argparse.Namespace], int]
    arguments: tuple[Argument, ...] = ()


def argument(*names: str, **options: Any) -> Argument:
    """An argument, written as for argparse's `add_argument`."""
    return names, options


def folder(*names: str, **options: Any) -> Argument:
    """An argument that is a folder, read as a Path."""
    return names, {"type": Path, "metavar": "DIR", **options}


VERBS = (
    Verb(
        "run",
        "run a matrix of trials and report it",
        verbs.run,
        (
            # "*" and not "+": without an override it runs the quickstart.
            argument("overrides", nargs="*", metavar="KEY=VALUE", help=RUN_HELP),
            argument("--plan", action="store_true", help="list the trials and write nothing"),
        ),
    ),
    Verb(
        "report",
        "build tables, figures and an HTML page from result folders",
        verbs.report,
        (
            folder("folders", nargs="+", help="results/NAME, ..."),
            folder("--out", help="folder to write into (default: DIR/report)"),
        ),
    ),
    Verb(
        "publish",
        "send records to Weights & Biases",
        verbs.publish,
        (
            folder("folders", nargs="+", help="results/NAME, ..."),
            # Unlike `run`, whose mirror is offline by default: this verb is a request to send.
            argument("--mode", choices=("online", "offline"), default="online"),
            argument("--project", default="condbench"),
        ),
    ),
    Verb(
        "compare",
        "test for regressions: two runs, two revisions or golden trials",
        verbs.compare,
        (
            argument("sides", nargs="*", metavar="SIDE", help=COMPARE_HELP),
            argument("--rev", action="store_true", help="BASELINE and CANDIDATE are revisions"),
            folder("--rerun", help="a second run of CANDIDATE"),
            argument("--exact", action="store_true", help="golden trials: exact counts, on CPU"),
            argument("--update", action="store_true", help="with --exact: rewrite the records"),
            folder("--out", help="write body.md and verdict.json into this folder"),
        ),
    ),
    Verb(
        "nightly",
        "compare two revisions, interleaved; keep the history",
        verbs.nightly,
        (
            argument("overrides", nargs="*", metavar="KEY=VALUE", help=NIGHTLY_HELP),
            argument("--simulate", action="store_true", help="print the gate's own error rates"),
        ),
    ),
    Verb(
        "trend",
        "plot every metric over past nightly runs: HTML page, figure, CSV",
        verbs.trend,
        (
            argument("path", type=Path, metavar="PATH", help="a history file or folder"),
            folder("--out", help="folder to write into (default: PATH/trend)"),
        ),
    ),
    Verb(
        "new",
        "create and install a package for a new method",
        verbs.new,
        (
            # Checked in bench.scaffold: whether it is free depends on the installed packages.
            argument("name", metavar="NAME", help="a Python module name, such as my_gate"),
            folder("--into", default=Path(), help="parent folder (default: the current one)"),
        ),
    ),
    Verb(
        "check",
        "test a method, backbone or task against the contract (seconds)",
        verbs.check,
        # No argparse `choices`: listing the plugins would slow down every `--help`.
        (argument("names", nargs="+", metavar="NAME", help="as in condbench list"),),
    ),
    Verb(
        "doctor",
        "report what this machine can measure; run a self-test",
        verbs.doctor,
        (argument("--json", action="store_true", help="machine-readable output"),),
    ),
    Verb("list", "list the available methods, backbones, tasks, experiments", verbs.list_all),
)


def parser() -> argparse.ArgumentParser:
    """The parser of the whole command line; a parsed verb sets `verb` and `execute`."""
    top = argparse.ArgumentParser(
        prog="condbench",
        description="Does conditional computation pay off? Quality, executed FLOPs, time, memory "
        "and energy of a matrix of methods, backbones and tasks, measured in one run.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,  # keeps the columns of EXAMPLES
    )
    # required: `condbench` alone is a usage error that lists the verbs, with exit code 2.
    subparsers = top.add_subparsers(dest="verb", required=True, metavar="VERB")
    for verb in VERBS:
        made = subparsers.add_parser(
            verb.name,
            help=verb.about,
            description=verb.about,
            epilog=EXIT_CODES,
            formatter_class=argparse.RawTextHelpFormatter,  # keeps the line breaks of RUN_HELP
        )
        # The row's function travels with the parsed arguments: no dispatch by name.
        made.set_defaults(execute=verb.execute)
        for names, options in verb.arguments:
            made.add_argument(*names, **options)
    return top
