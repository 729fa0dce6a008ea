"""The table of the dense model's quality on every task, for docs/reference/tasks.md.

    python -m tests.studies.bundled FOLDER

Reads the records of `condbench run experiment=bundled gpu.threads=1`.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path

from bench.records.record import RECORD_NAME, Record, read_record

HEADER = ("task", "parameters", "steps", "training, s", "seeds", "chance", "beside it")


def row(task: str, records: list[Record]) -> str:
    """One row: cost from the first record, as it does not depend on the seed; all scores."""
    ordered = sorted(records, key=lambda record: record.labels.seed)
    first = ordered[0]
    seeds = ", ".join(str(record.labels.seed) for record in ordered)
    seconds = sorted(_value(record, "train/time_s") for record in ordered)
    unit = first.metrics["infer/quality"].unit
    scores = ", ".join(f"{_value(record, 'infer/quality'):.2f}" for record in ordered)
    label = first.quality
    assert label is not None, f"{task}: the record has no quality label"
    cells = [
        f"`{task}`",
        f"{_value(first, 'model/params') / 1e3:.0f} K",
        f"{_value(first, 'train/num_steps'):.0f}",
        f"{seconds[0]:.0f} to {seconds[-1]:.0f}",
        f"{seeds}: {scores} {unit}",
        f"{label.chance:.2f}",
        ", ".join(f"{name} {value:.2f}" for name, value in label.references.items()),
    ]
    return f"| {' | '.join(cells)} |"


def _value(record: Record, metric: str) -> float:
    value = record.metrics[metric].value
    assert value is not None, f"{metric}: {record.metrics[metric].reason}"
    return value


def main() -> None:
    """Print the table of the records below a folder."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.studies.bundled", description=__doc__.splitlines()[0]
    )
    parser.add_argument("folder", type=Path, help="results of experiment=bundled")
    folder = parser.parse_args().folder
    found = defaultdict(list)
    for path in sorted(folder.rglob(RECORD_NAME)):
        record = read_record(path)
        found[record.labels.task].append(record)
    print(f"| {' | '.join(HEADER)} |\n{'| --- ' * len(HEADER)}|")
    for task, records in found.items():
        print(row(task, records))


if __name__ == "__main__":
    main()
