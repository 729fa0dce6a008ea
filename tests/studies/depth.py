"""The benefit of depth on each task, for easy and hard samples separately.

    python -m tests.studies.depth FOLDER

Reads the records of `condbench run experiment=depth` and `experiment=depth_others` (two depths,
equal seeds) and prints the tables of docs/reference/tasks.md: the score by difficulty, and how much
better the deeper network is, paired by seed with its 95 % interval (Student's t).
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench import plugins
from bench.records.record import RECORD_NAME, Record, read_record
from bench.statistics import Interval, paired_interval

Scores = NDArray[np.float64]
Members = NDArray[np.bool_]

# Thresholds of difficulty for hard and hardest samples; `text` has no difficulty.
HARD = {
    "digits": (0.5, 0.75),
    "keywords": (0.5, 0.75),
    "multitask": (0.5, 0.75),
    "numbers": (0.5, 0.75),
    "topics": (0.75, 0.875),
}


def groups(task: str, data: str) -> dict[str, Members]:
    """Masks of all, easy, hard and hardest test samples, keyed by name and share.

    Raises ValueError if the hash `data` of the scores differs from that of the task today.
    """
    plugin = plugins.choices("task")[task].load()()
    if plugin.data_hash() != data:
        raise ValueError(
            f"{task}: the records are of data {data[:10]}, which the task no longer has"
        )
    members = {"mean": np.ones(plugin.num_samples("test"), bool)}
    if task in HARD:
        difficulty = plugin.attributes("test")["difficulty"].numpy()
        hard, hardest = (difficulty >= limit for limit in HARD[task])
        members |= {"easy": ~hard, "hard": hard, "hardest": hardest}
    return {f"{name} ({100 * which.mean():.0f} %)": which for name, which in members.items()}


def table(scores: Mapping[str, Mapping[int, Scores]], names: list[str], higher: bool) -> list[str]:
    """Lines of a table: {row: {seed: score of each group, [G]}}, the deeper network first.

    The last row is its gain, positive where it is better, whatever the direction of the score.
    """
    deep, shallow = scores
    seeds = sorted(scores[deep])
    arrays = [np.array([scores[row][seed] for seed in seeds]) for row in (deep, shallow)]
    better = (arrays[0] - arrays[1]) * (1 if higher else -1)  # [seeds, G]
    gains = [paired_interval(each, np.zeros(len(seeds))) for each in better.T]
    rows = [["", *(f"seed {seed}" for seed in seeds), *names]]
    rows += [["---"] * len(rows[0])]
    for row, array in zip(scores, arrays, strict=True):
        rows.append([row, *map("{:.2f}".format, (*array[:, 0], *array.mean(0)))])
    rows.append(["better by", *map("{:+.2f}".format, better[:, 0]), *map(_interval, gains)])
    return [f"| {' | '.join(cells)} |" for cells in rows]


def _interval(gain: Interval) -> str:
    if gain.low is None:
        return f"{gain.value:+.2f}"
    return f"{gain.value:+.2f} [{gain.low:+.2f}, {gain.high:+.2f}]"


def by_task(folder: Path) -> dict[str, list[tuple[Record, Scores]]]:
    """The records below `folder` with the score of every test sample, [N]."""
    found = defaultdict(list)
    for path in sorted(folder.rglob(RECORD_NAME)):
        record = read_record(path)
        with np.load(path.with_name("raw.npz"), allow_pickle=False) as raw:
            found[record.labels.task].append((record, raw["quality_point0"].astype(float)))
    return found


def lines(task: str, trials: list[tuple[Record, Scores]]) -> list[str]:
    """The table of one task; KeyError if a depth lacks a seed that the other has."""
    hashes = {record.provenance["identity"]["data"] for record, _ in trials}
    if len(hashes) > 1:
        raise ValueError(f"{task}: the records are of different data: {', '.join(sorted(hashes))}")
    members = groups(task, hashes.pop())
    rows: dict[int, dict[int, Scores]] = defaultdict(dict)
    flops: dict[int, float] = {}
    for record, scores in trials:
        depth = record.config["backbone"]["depth"]
        rows[depth][record.labels.seed] = np.array([scores[m].mean() for m in members.values()])
        flops[depth] = record.metrics["infer/flops_per_sample"].shown or 0.0
    named = {
        f"{depth} blocks, {flops[depth] / 1e6:.2f} MFLOP": rows[depth]
        for depth in sorted(rows, reverse=True)
    }
    return table(named, list(members), trials[0][0].quality.direction == "higher")


def main() -> None:
    """Print the tables of the records below a folder."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.studies.depth", description=__doc__.splitlines()[0]
    )
    parser.add_argument("folder", type=Path, help="results of experiment=depth or depth_others")
    for task, trials in by_task(parser.parse_args().folder).items():
        print(f"\n{task}, {trials[0][0].metrics['infer/quality'].unit}\n")
        print("\n".join(lines(task, trials)))


if __name__ == "__main__":
    main()
