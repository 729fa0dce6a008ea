"""The program that measures what the harness adds to a trial."""

from __future__ import annotations

import re

import pytest

from tests.studies import overhead


@pytest.mark.soak
def test_medians_are_printed(capsys) -> None:
    """The harness's own times have targets; the time of a task's data is printed separately."""
    assert overhead.main(["--trials", "2"]) in (0, 1)
    printed = capsys.readouterr().out
    figures = re.findall(r"median (\d+\.\d+) s \(target (\d\.\d) s\)", printed)
    assert [target for _, target in figures] == ["0.5", "0.5", "0.2"]
    assert all(float(median) > 0 for median, _ in figures)
    hidden = re.findall(r"the task's (\w+), as work +median (\d+\.\d+) s", printed)
    assert [name for name, _ in hidden] == ["data", "references"]
    assert all(float(median) > 0 for _, median in hidden)
