"""Tables of equal training FLOPs: the best size of each method, in a line below each table."""

from __future__ import annotations

from typing import Any

from bench.records.record import Record


def sized(make: Any, method: str, dim: int, quality: float, flops: float | None = 1e12) -> Record:
    """A record of that width, trained to a budget."""
    record: Record = make(method, quality=quality, code=f"code{dim}", started=float(dim))
    changed = {"train": {"steps": None, "flops": flops}, "backbone": {"dim": dim, "depth": 4}}
    return record.model_copy(update={"config": record.config | changed})


def notes(tables: Any) -> list[str]:
    return [note for table in tables for note in table.notes if note.startswith("equal training")]


def test_each_method_enters_with_its_best_width(make: Any, tabulated: Any) -> None:
    """Dense is best at 64 and moe at 32; moe's third width has no row."""
    scores = {"dense": {32: 0.90, 48: 0.92, 64: 0.95}, "moe": {32: 0.94, 48: 0.91}}
    records = [sized(make, m, d, q) for m, widths in scores.items() for d, q in widths.items()]
    found = notes(tabulated(*records))
    assert len(found) == 3  # below every table
    assert len(set(found)) == 1
    assert found[0].startswith(
        "equal training (train.flops=1e+12), best size of each by accuracy: "
        "dense 0.950 (dim=64, of 3); moe 0.940 (dim=32, of 2); "
    )


def test_without_a_budget_or_another_size_there_is_no_line(make: Any, tabulated: Any) -> None:
    """Widths trained by steps are no comparison at equal FLOPs, and two budgets are none."""
    assert notes(tabulated(*(sized(make, "dense", dim, 0.9, None) for dim in (32, 64)))) == []
    assert notes(tabulated(*(sized(make, "dense", 32, 0.9, flops) for flops in (1e12, 2e12)))) == []


def test_the_lower_score_is_the_better_one(make: Any, tabulated: Any) -> None:
    """Where lower is better the best width has the lowest score."""
    records = [sized(make, "dense", dim, score) for dim, score in ((32, 2.5), (64, 2.25))]
    lower = {"direction": "lower", "chance": None, "references": {}}
    records = [Record.model_validate(r.model_dump() | {"quality": lower}) for r in records]
    assert "dense 2.25 (dim=64, of 2)" in notes(tabulated(*records))[0]
