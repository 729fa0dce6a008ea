"""The tables of the benefit of depth."""

from __future__ import annotations

import numpy as np
import pytest

from bench import plugins
from tests.studies import depth


def test_the_deeper_network_is_paired_with_the_shallow_one_by_seed() -> None:
    """Gains 2, 4 and 3 points: mean 3, deviation 1, t(2) = 4.303, so 3 -+ 4.303 / sqrt(3)."""
    scores = {
        "6 blocks": {0: np.array([92.0, 80.0]), 1: np.array([95.0, 81.0]), 2: np.array([93, 82.0])},
        "2 blocks": {1: np.array([91.0, 80.0]), 0: np.array([90.0, 80.0]), 2: np.array([90, 80.0])},
    }
    header, _, deep, shallow, better = depth.table(scores, ["all", "hard"], higher=True)
    assert header == "|  | seed 0 | seed 1 | seed 2 | all | hard |"
    assert deep == "| 6 blocks | 92.00 | 95.00 | 93.00 | 93.33 | 81.00 |"
    assert shallow == "| 2 blocks | 90.00 | 91.00 | 90.00 | 90.33 | 80.00 |"
    assert better.startswith("| better by | +2.00 | +4.00 | +3.00 | +3.00 [+0.52, +5.48] |")


def test_lower_is_better_for_bits() -> None:
    """2.5 bits in place of 3.0 are better by half a bit; one seed has no interval."""
    scores = {"4 blocks": {0: np.array([2.5])}, "1 block": {0: np.array([3.0])}}
    assert depth.table(scores, ["all"], higher=False)[-1] == "| better by | +0.50 | +0.50 |"


@pytest.mark.parametrize("task", ["digits", "text"])
def test_groups_cover_the_test_split(task: str) -> None:
    """Easy and hard samples make up the split; a task without difficulty has no groups."""
    data = plugins.choices("task")[task].load()().data_hash()
    whole, *parts = depth.groups(task, data).values()
    assert whole.all()
    if parts:
        easy, hard, hardest = parts
        assert ((easy ^ hard) == whole).all()
        assert (hardest <= hard).all()
        assert 0 < hardest.mean() < hard.mean() < 1


def test_scores_of_other_data_are_rejected() -> None:
    """The difficulty of today's data would be assigned to other samples."""
    with pytest.raises(ValueError, match=r"text: the records are of data 0123456789, which"):
        depth.groups("text", "0123456789abcdef")
