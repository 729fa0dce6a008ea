"""What `condbench list` shows of a task without making its data is what its data have."""

from __future__ import annotations

import pytest

from bench import plugins
from bench.tasks.parts.preloaded import SPLITS

OURS = [name for name, each in plugins.choices("task").items() if each.distribution == "condbench"]


@pytest.mark.parametrize("name", OURS)
def test_the_sizes_are_those_of_the_splits(name: str) -> None:
    """In the order train, calibration, test."""
    task = plugins.find("task", name).load()()
    assert list(task.split_sizes.items()) == [(s, len(task.samples()[s])) for s in SPLITS]
