"""Coverage across sessions, step by step; every step goes on where it was interrupted.

    python -m bench.selftest.sessions train FOLDER [--seed 0]    train four methods into FOLDER
    python -m bench.selftest.sessions time FOLDER [--seed 0]     time them once more: one session
    python -m bench.selftest.sessions judge FOLDER               read FOLDER and print the tables
    python -m bench.selftest.sessions all FOLDER --sessions 12   all of it, over at least an hour

`judge` compares sessions of seed 0. Those of another seed show what training again changes.
Exit code 0 when every acceptance limit is met, else 1; 2 for a folder without what a step needs.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from tabulate import tabulate

from bench.selftest.sessions import coverage, timing, trained
from bench.statistics.processes import BETWEEN_SESSIONS

SPREAD_MINUTES = 60.0  # from the first session to the last one
FIRST, AGAIN = 0, 1  # seeds: of the sessions that are compared, and of training again
SESSIONS_AGAIN = 2  # sessions of the second training


def main(arguments: list[str] | None = None) -> int:
    """Run one step; returns the exit code."""
    options = _parse(arguments)
    try:
        return _run(options)
    except (FileNotFoundError, ValueError) as error:
        print(f"{options.folder}: {error}", file=sys.stderr)
        return 2


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    raw = argparse.RawDescriptionHelpFormatter  # the docstring holds an indented list
    parser = argparse.ArgumentParser(
        prog="python -m bench.selftest.sessions", description=__doc__, formatter_class=raw
    )
    parser.add_argument("step", choices=["train", "time", "judge", "all"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=FIRST, help="which training")
    parser.add_argument("--sessions", type=int, default=12)
    parser.add_argument("--processes", type=int, default=3, help="of a session, as measure=quick")
    parser.add_argument("--rounds", type=int, default=3, help="of each process, as measure=quick")
    parser.add_argument("--minutes", type=float, default=SPREAD_MINUTES, help="of all sessions")
    return parser.parse_args(arguments)


def _run(options: argparse.Namespace) -> int:
    if options.step == "all":
        return _all(options)
    if options.step == "judge":
        return _judge(options.folder)
    if options.step == "train":
        _train(options.folder, options.seed)
    else:
        _time(options, options.seed)
    return 0


def _train(folder: Path, seed: int) -> None:
    for method in trained.train_all(folder, seed):
        print(f"{method}: trained, seed {seed}", flush=True)


def _time(options: argparse.Namespace, seed: int) -> None:
    """The next session of a training."""
    number = timing.next_number(options.folder, seed)
    begun_s = time.monotonic()
    path = timing.run_session(options.folder, seed, number, options.processes, options.rounds)
    print(f"{path}: {time.monotonic() - begun_s:.0f} s", flush=True)


def _all(options: argparse.Namespace) -> int:
    """Train, then sessions at equal distances in time, then the judgement."""
    if options.sessions < coverage.MIN_SESSIONS:
        raise ValueError(f"at least {coverage.MIN_SESSIONS} sessions are needed")
    for seed in (FIRST, AGAIN):
        _train(options.folder, seed)
    distance_s = options.minutes * 60 / (options.sessions - 1)
    while (number := timing.next_number(options.folder, FIRST)) < options.sessions:
        begun_s = time.monotonic()
        _time(options, FIRST)
        if number < options.sessions - 1:
            time.sleep(max(0.0, begun_s + distance_s - time.monotonic()))
    while timing.next_number(options.folder, AGAIN) < SESSIONS_AGAIN:
        _time(options, AGAIN)
    return _judge(options.folder)


def _judge(folder: Path) -> int:
    sessions = _read(folder, FIRST)
    cells = coverage.coverage_of(sessions)
    _print_machine(sessions)
    _section("Coverage across sessions", coverage.HEADERS, coverage.rows(cells))
    num = sum(len(cell.readings) for cell in cells)
    withheld = sum(len(sizes) for each in sessions for sizes in each["cells"].values()) - num
    print(f"\n{coverage.share_held(cells):.1%} of {num} intervals hold; {withheld} were withheld.")
    found, used = coverage.between_sessions(cells), BETWEEN_SESSIONS.sd
    print(f"Sessions differ by {found:.1%} beyond their processes; the intervals use {used:.1%}.")
    again = coverage.retraining_rows(cells, _read(folder, AGAIN))
    if again:
        _section("What training again changes", coverage.RETRAINING_HEADERS, again)
    failed = coverage.failures(cells)
    for failure in failed:
        print(f"\nLIMIT MISSED  {failure}")
    print("" if failed else "\nEvery acceptance limit is met.")
    return 1 if failed else 0


def _read(folder: Path, seed: int) -> list[dict[str, Any]]:
    """The sessions of one training in order; [] where there is none."""
    name = trained.training_name(seed)
    paths = sorted((folder / "sessions").glob(f"{name}-*.json"))
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths]


def _print_machine(sessions: list[dict[str, Any]]) -> None:
    known = sessions[0]["environment"]
    starts = [each["started_unix_s"] for each in sessions]
    print(
        f"{known['cpu_model']}, {known['num_cores']} cores, torch {known['versions']['torch']}: "
        f"{len(sessions)} sessions over {(max(starts) - min(starts)) / 60:.0f} minutes, "
        f"{sessions[0]['processes']} processes of {sessions[0]['rounds']} rounds each."
    )


def _section(title: str, headers: list[str], rows: list[list[str]]) -> None:
    print(f"\n### {title}\n")
    # disable_numparse: it would reformat the numbers, whose digits are chosen.
    print(tabulate(rows, headers, tablefmt="github", disable_numparse=True), flush=True)


if __name__ == "__main__":
    sys.exit(main())
