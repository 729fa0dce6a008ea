"""`python -m tests.depth FOLDER`: what depth is worth on `digits`, easy and hard samples apart.

Reads the records of `condbench run experiment=depth` (six blocks and two, equal seeds) and prints
docs/tasks.md's table: accuracy by difficulty, and the difference paired by seed with its 95 %
interval (Student's t).
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.record import RECORD_NAME, read_record
from bench.statistics import paired_interval
from bench.tasks.digits import Digits

DEPTHS = (6, 2)
HARD, HARDEST = 0.5, 0.75  # difficulty from which a sample is called so

Scores = NDArray[np.float64]


def accuracies(folder: Path, groups: dict[str, NDArray[np.bool_]]) -> dict[int, dict[int, Scores]]:
    """{depth: {seed: accuracy in percent of each group, [G]}} of the records below `folder`."""
    found: dict[int, dict[int, Scores]] = {depth: {} for depth in DEPTHS}
    for path in folder.rglob(RECORD_NAME):
        record = read_record(path)
        with np.load(path.with_name("raw.npz"), allow_pickle=False) as raw:
            right = raw["quality_point0"]  # [N], 100 where the digit was recognised, else 0
        scores = np.array([right[members].mean() for members in groups.values()])
        found[record.config["backbone"]["depth"]][record.labels.seed] = scores
    return found


def rows(folder: Path) -> list[list[str]]:
    """The table's cells: one row per depth and one of differences; KeyError if a seed lacks one."""
    difficulty = Digits().attributes("test")["difficulty"].numpy()
    hard, hardest = difficulty >= HARD, difficulty >= HARDEST
    groups = {"mean": difficulty >= 0, "easy": ~hard, "hard": hard, "hardest": hardest}
    shares = [f"{name} ({100 * members.mean():.0f} %)" for name, members in groups.items()]
    found = accuracies(folder, groups)
    seeds = sorted(found[DEPTHS[0]])
    full, shallow = (np.array([found[depth][seed] for seed in seeds]) for depth in DEPTHS)
    gains = [paired_interval(a, b) for a, b in zip(full.T, shallow.T, strict=True)]
    return [
        ["", *(f"seed {seed}" for seed in seeds), *shares],
        ["---"] * (1 + len(seeds) + len(groups)),
        *(
            [
                f"{depth} blocks",
                *(f"{s:.2f}" for s in scores[:, 0]),
                *map("{:.2f}".format, scores.mean(0)),
            ]
            for depth, scores in zip(DEPTHS, (full, shallow), strict=True)
        ),
        [
            "difference",
            *(f"{gain:+.2f}" for gain in (full - shallow)[:, 0]),
            *(f"{gain.value:+.2f} [{gain.low:+.2f}, {gain.high:+.2f}]" for gain in gains),
        ],
    ]


if __name__ == "__main__":
    for cells in rows(Path(sys.argv[1])):
        print("| " + " | ".join(cells) + " |")
