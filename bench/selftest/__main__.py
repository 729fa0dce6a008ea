"""`make meters`: the meters on work with known results, beside other tools.

    python -m bench.selftest                 all of it, about a quarter of an hour
    python -m bench.selftest --sessions 5    fewer timing sessions

Prints the tables of docs/explanation/meters.md for this machine.
Exit code 0 when every acceptance limit is met, else 1.
"""

from __future__ import annotations

import argparse
import sys
import time
from contextlib import nullcontext

import torch
from tabulate import tabulate

from bench import routing
from bench.meters.time.peak import measure_peak_flops
from bench.records import environment
from bench.selftest import known_bytes, known_flops, known_ratios


def main(arguments: list[str] | None = None) -> int:
    """Run every comparison and print its table; returns the exit code."""
    raw = argparse.RawDescriptionHelpFormatter  # the docstring holds an indented list
    parser = argparse.ArgumentParser(
        prog="python -m bench.selftest", description=__doc__, formatter_class=raw
    )
    parser.add_argument("--sessions", type=int, default=20, help="timing sessions per known ratio")
    sessions = parser.parse_args(arguments).sessions
    if sessions < 2:
        parser.error("a spread needs at least two sessions")
    failed: list[str] = []
    print(_machine())
    for part in (_flops, _memory, lambda: _time(sessions), _repeated_inputs, _overheads):
        failed += part()
    print(f"\nLoad average afterwards: {environment.load():.2f}.")
    for failure in failed:
        print(f"\nLIMIT MISSED  {failure}")
    print(f"\n{len(failed)} limits missed." if failed else "\nEvery acceptance limit is met.")
    return 1 if failed else 0


def _machine() -> str:
    known = environment.fingerprint()
    return (
        f"{known['cpu_model']}, {known['num_cores']} cores, torch {known['versions']['torch']}, "
        f"one-minute load {known['load_1min']} at the start."
    )


def _section(title: str, headers: list[str], rows: list[list[str]]) -> None:
    print(f"\n### {title}\n")
    # disable_numparse: it would reformat the numbers, whose digits are chosen.
    print(tabulate(rows, headers, tablefmt="github", disable_numparse=True), flush=True)


def _flops() -> list[str]:
    rows, failed = known_flops.rows_and_failures()
    _section("Counted FLOPs over the closed form", known_flops.HEADERS, rows)
    return failed


def _memory() -> list[str]:
    rows, failed = known_bytes.rows_and_failures()
    _section("Peak memory", known_bytes.HEADERS, rows)
    return failed


def _time(num_sessions: int) -> list[str]:
    failed = []
    for load, around in (
        (known_ratios.QUIET, nullcontext),
        (known_ratios.BUSY, known_ratios.busy_core),
    ):
        rows = []
        for truth in (1.05, 1.0):  # a small true difference, and none
            print(f"timing ratio {truth:.2f}, {load} ...", file=sys.stderr, flush=True)
            with around():
                found = known_ratios.measure_sessions(truth, num_sessions)
            rows += [each.row() for each in found]
            failed += known_ratios.failures(found[0], load)  # [0]: limits apply to our meter
        title = f"A known time ratio, one thread, {num_sessions} sessions, {load}"
        _section(title, known_ratios.HEADERS, rows)
    return failed


def _repeated_inputs() -> list[str]:
    headers = ["inputs of an early-exit model, batch 1", "FLOP ratio", "measured speed-up"]
    _section("Why inputs are real", headers, known_ratios.repeated_input_rows())
    return []


def _overheads() -> list[str]:
    per_op = known_flops.overhead()
    added = per_op["condbench"] - per_op["no counter"]
    rows = [[f"one operation, {name}", f"{us:.1f} us"] for name, us in per_op.items()]
    rows.append(["one border of a region, hooks off", f"{_border_us():.2f} us"])
    peak = measure_peak_flops(torch.float32, 1)
    rows.append(["fastest matrix product, float32, one thread", f"{peak / 1e9:.0f} GFLOP/s"])
    _section("Overhead of measuring, and the machine's limit", ["what", "measured"], rows)
    if added > known_flops.MAX_US_PER_OP:
        return [
            f"FLOPs: counting adds {added:.0f} us per op, {known_flops.MAX_US_PER_OP:g} allowed"
        ]
    return []


def _border_us(num: int = 10_000) -> float:
    """Microseconds per border of a region with hooks off: the fastest of five runs."""
    times = []
    for _ in range(5):
        start = time.perf_counter_ns()
        for _ in range(num):
            with routing.region("router"):
                pass
        times.append(time.perf_counter_ns() - start)
    return min(times) / num / 2 / 1e3  # entry and exit are a border each


if __name__ == "__main__":
    sys.exit(main())
