"""The sample counts that `condbench list` prints are those of the data."""

from __future__ import annotations

import pytest

from bench import plugins
from bench.tasks.parts.preloaded import SPLITS

OURS = [name for name, each in plugins.choices("task").items() if each.distribution == "condbench"]


@pytest.mark.parametrize("name", OURS)
def test_the_sizes_are_those_of_the_splits(name: str) -> None:
    """In the order train, calibration, test."""
    task = plugins.find("task", name).load()()
    assert list(task.extras.split_sizes.items()) == [(s, len(task.samples()[s])) for s in SPLITS]
