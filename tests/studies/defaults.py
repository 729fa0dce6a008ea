"""How the methods' defaults were chosen: the same procedure for all.

    python -m tests.studies.defaults            run what is missing, print the table (an hour)
    python -m tests.studies.defaults moe        of one method
    python -m tests.studies.defaults --table    print the table of what has been run

Every setting in GRIDS is trained on the quickstart's two tasks with a seed that no published run
uses, and finds its point of equal quality on the second half of the calibration data, as in any
trial. A method's default is the setting whose points execute the smallest share of dense's FLOPs,
the geometric mean of both tasks, among those that keep quality on both; where none does, the one
that loses least. The test set has no part in it, and neither has time.
"""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from bench.records.catalogue import FLOPS_SHARE
from bench.records.reading import Found, read

RESULTS = Path("results")
NAME, SEED, TASKS = "defaults", 1, ("digits", "text_brief")
# What decides how much is computed; sizes of gates, prices and temperatures are the papers'.
GRIDS = {
    "topk_ffn": ("method.k=1,2,4",),
    "branches": ("method.budget=0.3,0.5",),
    "early_exit": ("method.train_share=0.3,0.5",),
    "mixture_of_depths": ("method.capacity=0.125,0.25,0.5",),
    "moe": ("method.hidden_ratio=0.125,0.25",),
    "skip_blocks": ("method.budget=0.3,0.5",),
    # No cost but a rate of learning: the paper's is meant for thirty epochs.
    "dynamic_vit": ("method.trunk_lr_share=0.01,0.1,1.0",),
}
# Counts and quality only: nothing here is a reading of time.
FAST = ("measure.processes=1", "measure.rounds=1", "measure.warmup_s=0", "measure.block_ms=1")


def run(method: str, grid: tuple[str, ...]) -> None:
    """Train every setting of one method; what has been trained is not trained again."""
    where = (f"name={NAME}", f"seed={SEED}", f"task={','.join(TASKS)}")
    command = [sys.executable, "-m", "bench.cli", "run", f"method={method}", *grid, *where]
    subprocess.run([*command, "backbone=transformer_small", "gpu.threads=1", *FAST], check=False)


def rows() -> Iterator[tuple[str, str, float, float, bool]]:
    """Method, setting, FLOP share, largest loss of the tasks, and whether both keep quality."""
    by_setting: dict[tuple[str, str], list[Found]] = {}
    for found in read([RESULTS / NAME]).found:
        labels = found.record.labels
        # A task that the method does not support is skipped, and leaves the other one.
        if found.record.status in ("ok", "skipped") and labels.method != "dense":
            by_setting.setdefault((labels.method, _own(labels.variant)), []).append(found)
    for (method, variant), trials in sorted(by_setting.items()):
        if len(trials) < len(TASKS):
            continue
        trials = [each for each in trials if each.record.status == "ok"]
        shares = [_share(each) for each in trials]
        chosen = [each.record.diagnostics["operating_points"] for each in trials]
        # In tolerances: points of accuracy and bits do not compare.
        losses = [_loss(each) / each["tolerance"] for each in chosen]
        kept = all(each["kind"] == "equal quality" for each in chosen)
        yield method, variant, math.exp(sum(map(math.log, shares)) / len(shares)), max(losses), kept


def _own(variant: str) -> str:
    """The method's own settings, without what all trials here share."""
    return ",".join(p for p in variant.split(",") if not p.startswith(("gpu.", "backbone.")))


def _share(found: Found) -> float:
    return float(found.record.metrics[FLOPS_SHARE.key].value or math.nan)


def _loss(choice: dict) -> float:
    first = choice["chosen"]
    return next(e["loss"] for e in choice["candidates"] if e["settings"] == first)


def main() -> None:
    """Run the grids and print one line per setting."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("methods", nargs="*", help=f"of {', '.join(GRIDS)}; all by default")
    parser.add_argument("--table", action="store_true", help="run nothing")
    arguments = parser.parse_args()
    if unknown := set(arguments.methods) - GRIDS.keys():
        parser.error(f"no grid for {', '.join(sorted(unknown))}")
    for method in () if arguments.table else arguments.methods or GRIDS:
        run(method, GRIDS[method])
    print("| method | setting | FLOPs, % of dense | loss, tolerances | keeps quality |")
    print("|---|---|---|---|---|")
    for method, setting, share, loss, kept in rows():
        keeps = "yes" if kept else "no"
        print(
            f"| `{method}` | {setting or 'default'} | {100 * share:.1f} | {loss:+.2f} | {keeps} |"
        )


if __name__ == "__main__":
    main()
