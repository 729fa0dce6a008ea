"""The program that measures what the harness adds to a trial."""

from __future__ import annotations

import re

import pytest

from bench.launch import overhead


@pytest.mark.soak
def test_three_medians_are_printed(capsys) -> None:
    """It prints the medians of empty trials, real trials and publishing, each with its target."""
    assert overhead.main(["--trials", "2"]) in (0, 1)
    figures = re.findall(r"median (\d+\.\d+) s \(target (\d\.\d) s\)", capsys.readouterr().out)
    assert [target for _, target in figures] == ["0.5", "0.5", "0.2"]
    assert all(float(median) > 0 for median, _ in figures)
