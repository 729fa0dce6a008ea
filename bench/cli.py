"""The door: verbs, errors in one sentence, exit codes.

Nothing heavy is imported before a verb is chosen, and torch only where trials are planned.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.records.redaction import printable, printable_lines

if TYPE_CHECKING:
    from bench.plugins import Plugin

EXIT_CODES = """exit codes:
  0 ok, 1 a trial failed or a metric regressed, 2 bad usage or input, 3 inconclusive,
  4 not comparable, 130 interrupted (the same command goes on from there)"""

READING = ("report", "list", "trend")  # verbs whose output is all that they are for

EXAMPLES = f"""examples:
  condbench run                                    the quickstart: table, figure, report
  condbench run --plan                             what would run, what is done or stale, and why
  condbench run method=moe,dense task=digits seed=0,1
  condbench run method=moe method.num_experts=4,8  a setting of a method is a key like any other
  condbench run experiment=quickstart measure=standard retry=failed
  condbench report results/quickstart              tables and figures again, from the records
  condbench compare results/monday results/tuesday regressed, or not?
  condbench compare --rev main HEAD task=digits    two revisions in turns on this machine
  condbench nightly                                that for experiment=nightly, with history
  condbench new my_gate                            a method of your own: a package, ready to edit
  condbench check my_gate                          does it keep the contract? seconds
  condbench doctor                                 what this machine can measure, and why not
  condbench list                                   methods, backbones, tasks, experiments

{EXIT_CODES}"""

RUN_HELP = """KEY=VALUE in Hydra's grammar; a comma sweeps. Without any: experiment=quickstart.
  experiment, method, task, backbone, gpu (cpu, one, ddp), measure (quick, standard, publish)
  seed, train.steps, gpu.device, wandb.mode (offline, online, disabled), results, name,
  timeout_s (per trial), retry (failed, invalid), and every setting of what was chosen"""


COMPARE_HELP = """BASELINE CANDIDATE: folders that `run` wrote, one machine each
with --rev: two git revisions, then KEY=VALUE as for run (experiment=nightly)
with --exact: [DIR of golden trials] [KEY=VALUE ... to choose some]"""

NIGHTLY_HELP = """baseline=REV (nightly-baseline), candidate=REV (HEAD), history=PATH, out=DIR
  and what `run` takes (experiment=nightly)"""


class Refused(Exception):
    """Bad usage or input: one message that says what, where, and the way out. Exit code 2."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; the exit code."""
    parsed, rest = parser().parse_known_args(arguments)
    try:
        unknown = [word for word in rest if parsed.verb != "run" or word.startswith("-")]
        if unknown:
            raise Refused(f"unknown argument {unknown[0]!r}; condbench {parsed.verb} --help")
        if rest:  # overrides behind an option
            parsed.overrides += rest
        return int(parsed.act(parsed))
    except Refused as error:
        print(printable_lines(f"condbench: {error}"), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("condbench: interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader went away: | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if parsed.verb in READING or getattr(parsed, "plan", False):
            return 0
        told = "nobody reads the output any more; the same command goes on from here"
        print(f"condbench: {told}", file=sys.stderr)
        return 1


def parser() -> argparse.ArgumentParser:
    """The command line's grammar."""
    top = argparse.ArgumentParser(
        prog="condbench",
        description="Does conditional computation pay off? Quality, executed FLOPs, time, memory "
        "and energy of a matrix of methods, backbones and tasks, measured in one run.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(name: str, about: str, act: object) -> argparse.ArgumentParser:
        made = verbs.add_parser(
            name,
            help=about,
            description=about,
            epilog=EXIT_CODES,
            formatter_class=argparse.RawTextHelpFormatter,
        )
        made.set_defaults(act=act)
        return made

    run = verb("run", "run a matrix of trials, report it", _run)
    run.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help=RUN_HELP)
    run.add_argument("--plan", action="store_true", help="list the trials, write nothing")
    report = verb("report", "tables, figures and a page from result folders", _report)
    report.add_argument("folders", nargs="+", type=Path, metavar="DIR", help="results/NAME, ...")
    report.add_argument("--out", type=Path, help="folder to write into (DIR/report)")
    publish = verb("publish", "send records to Weights & Biases", _publish)
    publish.add_argument("folders", nargs="+", type=Path, metavar="DIR", help="results/NAME, ...")
    publish.add_argument("--mode", choices=("online", "offline"), default="online")
    publish.add_argument("--project", default="condbench")
    compare = verb("compare", "regressed, or not? Two runs, two revisions, golden trials", _compare)
    compare.add_argument("sides", nargs="*", metavar="SIDE", help=COMPARE_HELP)
    compare.add_argument("--rev", action="store_true", help="BASELINE and CANDIDATE are revisions")
    compare.add_argument("--rerun", type=Path, metavar="DIR", help="a second run of CANDIDATE")
    compare.add_argument("--exact", action="store_true", help="the golden trials: counts, CPU")
    compare.add_argument("--update", action="store_true", help="with --exact: rewrite, say what")
    compare.add_argument("--out", type=Path, metavar="DIR", help="write body.md and verdict.json")
    nightly = verb("nightly", "a night: revisions in turns, verdict, history", _nightly)
    nightly.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help=NIGHTLY_HELP)
    nightly.add_argument("--simulate", action="store_true", help="the gate's own error rates")
    trend = verb("trend", "every metric over the nights: a page, a figure, CSV", _trend)
    trend.add_argument("path", type=Path, metavar="PATH", help="a history file or folder")
    trend.add_argument("--out", type=Path, metavar="DIR", help="folder to write into (PATH/trend)")
    new = verb("new", "write and install a method of your own, ready to edit", _new)
    new.add_argument("name", metavar="NAME", help="a module's name, such as my_gate")
    new.add_argument("--into", type=Path, default=Path(), metavar="DIR", help="default: here")
    check = verb("check", "try the contract on a method: seconds, tiny tasks", _check)
    check.add_argument("names", nargs="+", metavar="METHOD", help="as in condbench list")
    doctor = verb("doctor", "what this machine can measure, what not and why; a self-test", _doctor)
    doctor.add_argument("--json", action="store_true", help="for programs")
    verb("list", "methods, backbones, tasks and experiments there are", _list)
    return top


@contextmanager
def refusing(*errors: type[Exception]) -> Iterator[None]:
    """Turn expected errors into one message and exit code 2."""
    try:
        yield
    except errors as error:
        if isinstance(error, OSError) and error.filename is not None:
            raise Refused(f"{error.filename}: {error.strerror}") from error
        raise Refused(str(error)) from error


def _run(arguments: argparse.Namespace) -> int:
    from bench.plan.matrix import PlanError
    from bench.plan.staleness import Foreign
    from bench.run import Unreadable, Unwritable, run

    with refusing(PlanError, Foreign, Unwritable, Unreadable):
        return run(arguments.overrides, plan_only=arguments.plan)


def _report(arguments: argparse.Namespace) -> int:
    from bench.report import NothingToReport, build

    with refusing(NothingToReport, OSError):
        made = build(arguments.folders, arguments.out)
    print(made.text)
    for problem in made.problems:
        print(printable(f"left out: {problem}"), file=sys.stderr)
    print("report:", *made.paths)
    return 0


def _publish(arguments: argparse.Namespace) -> int:
    from bench.publish.runs import NIGHT_NAME, NotSent, publish_all, publish_night

    nights = [folder for folder in arguments.folders if (folder / NIGHT_NAME).is_file()]
    where = f"sent to project {arguments.project} ({arguments.mode})"
    problems = []
    for folder in nights:
        try:
            with refusing(OSError, ValueError, KeyError):
                publish_night(folder, arguments.mode, arguments.project)
            print(f"{folder}: {where}")
        except NotSent as error:
            problems.append(str(error))
    others = [folder for folder in arguments.folders if folder not in nights]
    if others:
        with refusing(FileNotFoundError):
            num_sent, unsent = publish_all(others, arguments.mode, arguments.project)
        print(f"{num_sent} records {where}")
        problems += unsent
    for problem in problems:
        print(printable(f"not sent: {problem}"), file=sys.stderr)
    return 1 if problems else 0


def _list(arguments: argparse.Namespace) -> int:
    from bench.listing import listing
    from bench.plugins import PluginError

    with refusing(PluginError):
        for line in listing():
            print(line)
    return 0


def _compare(arguments: argparse.Namespace) -> int:
    from bench.regress.command import compare
    from bench.regress.sides import BadInput

    with refusing(BadInput, OSError):
        return compare(arguments)


def _nightly(arguments: argparse.Namespace) -> int:
    from bench.regress.revisions.command import nightly
    from bench.regress.sides import BadInput

    with refusing(BadInput, OSError):
        return nightly(arguments.overrides, simulate=arguments.simulate)


def _trend(arguments: argparse.Namespace) -> int:
    from bench.regress.history import BadHistory
    from bench.regress.trend import trend

    with refusing(BadHistory, OSError):
        paths = trend(arguments.path, arguments.out)
    print("trend:", *paths)
    return 0


def _doctor(arguments: argparse.Namespace) -> int:
    from bench.selftest.doctor import as_json, as_text, examine_and_test, exit_code

    findings = examine_and_test(Path("results"))
    print(as_json(findings) if arguments.json else as_text(findings))
    return exit_code(findings)


def _new(arguments: argparse.Namespace) -> int:
    from bench.plugins import PluginError
    from bench.scaffold import BadName, install, write

    with refusing(BadName, PluginError, OSError):
        place = write(arguments.name, arguments.into)
    problem = install(place)
    if problem:
        print(f"condbench: written to {place}, but not installed: {problem}", file=sys.stderr)
        return 1
    name = arguments.name
    print(f"{place / f'{name}.py'} is the method, installed in place. Next:")
    print(f"  condbench check {name}")
    print(f"  condbench run method={name} task=digits")
    return 0


def _check(arguments: argparse.Namespace) -> int:
    from bench.plan.explain import PlanError
    from bench.plugins import PluginError, choices

    with refusing(PluginError, PlanError):
        known = choices("method")
        methods = [(known[n], {}) if n in known else _variant(n) for n in arguments.names]
    from bench.check import check

    verdicts = []
    for plugin, settings in methods:
        with refusing(PluginError):
            verdicts.append(check(plugin, settings))
        print(*verdicts[-1].lines(), sep="\n", flush=True)
    return 0 if all(verdict.ok for verdict in verdicts) else 1


def _variant(name: str) -> tuple[Plugin, dict[str, Any]]:
    """A named variant's method and settings. Imports Hydra: only where a name is no plugin's."""
    from bench.plan.compose import variant

    return variant("method", name)


if __name__ == "__main__":
    sys.exit(main())
