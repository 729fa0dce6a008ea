"""Published rows really counted: a few cheap ones here, a sample of every kind in soak."""

from __future__ import annotations

import json
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import pytest

from bench.papers.rows import Row, read_rows
from bench.papers.verdict import Verdict
from bench.plan.matrix import make_plan
from bench.records.reading import read
from bench.records.record import TRIAL_NAME
from bench.report import build
from bench.report.paper.lines import Line, compare_rows
from bench.trial.run import run

CHEAP = ("resnet-20-cifar-params", "resnet-56-cifar-cost", "msdnet-cifar-100-nblocks-7-params")
# Of every paper that can be counted one row, and every way of counting.
SAMPLE = (
    *("resnet-18-imagenet-v1.5-cost", "mobilenetv2-cost", "deit-s-cost", "vit-b-32-384-cost"),
    *("dynamicvit-deit-s-0.7-cost", "evit-deit-s-0.7-cost", "tome-deit-s-r-8-cost"),
    *("resnet-50-rigl-cost-dense", "resnet-110-cifar-10-blockdrop-full-cost"),
    *("msdnet-imagenet-nblocks-5-step-4-exit-2-cost", "gpt-2-small-t-1024-cost"),
    *("bert-base-params", "res15-keyword-spotting-params", "mixtral-8x7b-active-params"),
)


def rows(ids: Sequence[str]) -> list[Row]:
    found = {row.id: row for row in read_rows()}
    return [found[each] for each in ids]


def count(row: Row, results: Path) -> None:
    """Run the row's trial as its experiment does."""
    settings = ("task=shapes", "measure=static", f"paper={row.paper}", f"name=paper-{row.paper}")
    (trial,) = make_plan([*settings, f"results={results}", *row.overrides]).trials
    trial.folder.mkdir(parents=True, exist_ok=True)
    (trial.folder / TRIAL_NAME).write_text(json.dumps(trial.content()))
    record = run(trial.folder)
    assert record.status == "ok", record.reason


def lines(of: Sequence[Row], results: Path) -> dict[str, Line]:
    """The rows of all these papers beside their records, by id."""
    found = read([results]).found
    papers = dict.fromkeys(row.paper for row in of)
    return {line.row.id: line for paper in papers for line in compare_rows(paper, found)}


def test_cheap_rows_are_reproduced(tmp_path: Path) -> None:
    """Counted by the ledger on an executed pass; of the others the report says they were not run.

    ResNet-20 has 0.269722 M parameters (0.27), ResNet-56 125,485,696 MAC (1.25e8).
    """
    for row in rows(CHEAP):
        count(row, tmp_path)
    found = lines(rows(CHEAP), tmp_path)
    verdicts = [found[each].verdict for each in CHEAP]
    assert verdicts == [Verdict.COARSE, Verdict.REPRODUCED, Verdict.REPRODUCED]
    assert found["resnet-20-cifar-params"].counted == Fraction(269_722, 10**6)
    assert found["resnet-18-imagenet-params"].reason == "not run: backbone=resnet18"
    made = build([tmp_path])
    assert {"paper.md", "paper.tex", "paper.csv"} <= {path.name for path in made.paths}
    assert "paper resnets: 23 published numbers: 2 REPRODUCED" in made.text


@pytest.mark.soak
def test_a_sample_of_every_paper_is_counted(tmp_path: Path) -> None:
    """Every row of the sample meets the printed digits, or is CLOSE with its reason."""
    for row in rows(SAMPLE):
        count(row, tmp_path)
    found = lines(rows(SAMPLE), tmp_path)
    assert [each for each in SAMPLE if not found[each].verdict.reproduced] == [
        "msdnet-imagenet-nblocks-5-step-4-exit-2-cost"
    ]
    assert all(found[each].how for each in SAMPLE)
