"""Two runs side by side: which rows are compared, and what agrees."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.studies.repeats import Reading, main

HEAD = "task,method,point,infer/speedup_b1,infer/speedup_b1_low,infer/speedup_b1_high\n"


@pytest.mark.parametrize(
    ("other", "overlaps", "contradicts"),
    [
        (Reading(1.3, 1.2, 1.4), True, False),  # touches 1.2
        (Reading(1.5, 1.3, 1.7), False, False),  # both above 1
        (Reading(0.8, 0.7, 0.9), False, True),
        (Reading(0.9, 0.7, 1.0), False, False),  # reaches 1: a tie
    ],
)
def test_intervals_agree_or_contradict(other: Reading, overlaps: bool, contradicts: bool) -> None:
    """Beside 1.1 [1.05, 1.2]; in either order."""
    one = Reading(1.1, 1.05, 1.2)
    assert one.overlaps(other) is other.overlaps(one) is overlaps
    assert one.contradicts(other) is other.contradicts(one) is contradicts


def test_rows_of_both_runs_are_compared(tmp_path: Path, monkeypatch, capsys) -> None:
    """Neither dense, nor what one of them has alone, nor what was not timed."""
    rows = {
        "a": "digits,dense,,1,0.9,1.1\ndigits,moe,,1.1,1.05,1.2\ndigits,old,,2,1.9,2.1\n",
        "b": "digits,dense,,1,0.9,1.1\ndigits,moe,,0.8,0.7,0.9\ndigits,moe,k=1,,,\n",
    }
    for name, text in rows.items():
        (tmp_path / name / "report").mkdir(parents=True)
        (tmp_path / name / "report" / "table.csv").write_text(HEAD + text)
    monkeypatch.setattr("sys.argv", ["repeats", str(tmp_path / "a"), str(tmp_path / "b")])
    main()
    shown = capsys.readouterr().out
    assert "0 of 1 pairs of intervals overlap" in shown
    assert "0 of 1 second readings lie in the first interval" in shown
    assert "1 contradict each other" in shown
