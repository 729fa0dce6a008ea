"""Damaged and unusable folders on the command line: one message, exit code 2 or 4, never green."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.cli import main
from bench.launch.failures import ProcessExit, write_failure
from bench.records.record import Metric, missing
from bench.regress.folders.compare import compare_folders
from bench.regress.verdict import Row, Verdict


def moe(folder):
    """The candidate's only conditional trial: its record."""
    return next(folder.glob("*/moe/*/record.json"))


def without_records(folder) -> None:
    for path in folder.rglob("record.json"):
        path.unlink()


def text_change(old: str, new: str):
    def change(folder) -> None:
        path = moe(folder)
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))

    return change


def rounds(**arrays):
    def change(folder) -> None:
        np.savez(moe(folder).with_name("raw.npz"), **arrays)

    return change


def change(*path):
    """change("environment", "gpus", "x"): the record's environment.gpus becomes "x"; without a
    value the key is removed."""

    def edit(folder) -> None:
        record = json.loads(moe(folder).read_text())
        place = record["provenance"] if path[0] == "identity" else record
        *inner, last = path[:-1] if len(path) > 1 else path
        for key in inner:
            place = place[key]
        if len(path) > 1:
            place[last] = path[-1]
        else:
            del place[last]
        moe(folder).write_text(json.dumps(record))

    return edit


ONES = np.ones(30)
BASELINE, CANDIDATE = "baseline_s_b64_point0", "candidate_s_b64_point0"


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (shutil.rmtree, "no such folder"),
        (without_records, "no readable record below"),
        (lambda folder: moe(folder).write_text("{"), "not readable as JSON"),
        (text_change('"schema_version": 1', '"schema_version": 2'), "schema version 2"),
        (text_change('"hardware": "cpu-2x-test"', '"hardware": "h200"'), "several machines"),
        (text_change('"device": "cpu"', '"device": "fake"'), "measured with a fake device"),
        (lambda folder: moe(folder).with_name("raw.npz").write_bytes(b"PK"), "damaged"),
        (change("identity"), "provenance.identity is missing"),
        (change("identity", [1]), "provenance.identity: Input should be"),
        (change("identity", "versions", 3), "provenance.identity.versions: Input"),
        (change("identity", "versions", {"torch": 3}), "identity.versions.torch: Input"),
        (change("identity", "config", "x"), "provenance.identity.config: Input"),
        (change("environment", "gpus", "x"), "environment.gpus: Input"),
        (change("environment", "gpus", ["x"]), "environment.gpus.0: Input"),
        (change("environment", "git_commit", []), "environment.git_commit: Input"),
        (change("environment", "versions", 3), "environment.versions: Input"),
        (change("environment", "memory_bytes", "much"), "environment.memory_bytes: Input"),
        (change("config", "measure", 3), "config.measure: Input should be"),
        (
            change("config", "measure", {"batch_sizes": [0]}),
            r"config\.measure\.batch_sizes=0: must be at least 1",
        ),
        (rounds(**{BASELINE: ONES, CANDIDATE: ONES[:-1]}), r"raw\.npz: damaged \(rounds of shapes"),
        (rounds(**{BASELINE: ONES[:0], CANDIDATE: ONES[:0]}), "damaged"),
        (rounds(**{BASELINE: ONES, CANDIDATE: ONES * np.nan}), "not a positive finite number"),
        (rounds(**{BASELINE: ONES, CANDIDATE: ONES * 0}), "not a positive finite number"),
        (rounds(**{BASELINE: ONES, CANDIDATE: ONES.astype(str)}), "damaged"),
    ],
)
@pytest.mark.parametrize("which", [0, 1])
def test_what_cannot_be_read_is_exit_code_2(tree, damage, words, which, capsys) -> None:
    """Missing, damaged, of another schema, of several machines or fake, on either side: the message
    names the file or folder, and nothing is compared."""
    sides = [tree("old", moe=1.2).folder, tree("new", moe=1.2).folder]
    damage(sides[which])
    assert main(["compare", *map(str, sides)]) == 2
    printed = capsys.readouterr()
    assert re.search(words, printed.err), printed.err
    assert str(sides[which]) in printed.err
    assert printed.out == ""


def test_a_failed_baseline_is_exit_code_2(tree, capsys) -> None:
    """With a trial that failed in the baseline nothing can be compared."""
    old, new = tree("old"), tree("new", moe=1.2)
    old.trial("moe", status="failed", reason="boom")
    assert main(["compare", str(old.folder), str(new.folder)]) == 2
    assert "a baseline with 1 failed trial(s)" in capsys.readouterr().err


def test_other_hardware_and_nothing_in_common_are_exit_code_4(tree, capsys) -> None:
    """Two machines, or no trial in common: the body lists the difference."""
    old, other = tree("old", moe=1.2).folder, tree("other").folder
    for path in other.rglob("record.json"):
        path.write_text(path.read_text().replace("cpu-2x-test", "h200"))
    assert main(["compare", str(old), str(other)]) == 4
    assert "- hardware cpu-2x-test -> h200" in capsys.readouterr().out
    alone = tree("alone", moe=1.2).folder
    shutil.rmtree(next(alone.glob("*/dense")))
    assert main(["compare", str(tree("dense").folder), str(alone)]) == 4
    assert "no trial in common" in capsys.readouterr().out


GPU = {"name": "H200", "driver": "560"}


def on_gpu(content) -> None:
    content["labels"]["device"] = "cuda"
    content["environment"]["gpus"] = [GPU]


def died(side, alive, name: str = "seed0-dead"):
    """The launcher's record of a process that died, of the trial whose record `alive` holds."""
    kept = json.loads((alive / "record.json").read_text())
    folder = side.folder / "cpu-2x-test" / "moe" / name
    folder.mkdir(parents=True)
    planned = {"key": name, "labels": {**kept["labels"], "device": "cpu"}, "config": kept["config"]}
    trial = {**planned, "identity": kept["provenance"]["identity"]}
    (folder / "trial.json").write_text(json.dumps(trial))
    write_failure(folder, ProcessExit(-9, "train", 3.0))
    return folder


def test_a_trial_whose_process_died_is_regressed(tree) -> None:
    """The launcher's record of a dead process has no driver or threads: that is no difference."""
    old, new = tree("old"), tree("new")
    died(new, old.trial("moe", 1.2, change=on_gpu))
    verdict = compare_folders(old.folder, new.folder)
    assert (verdict.differences, verdict.exit_code) == ([], 1)
    (row,) = [row for row in verdict.rows if row.metric == "trial"]
    assert "killed by SIGKILL" in row.reason


def test_an_older_success_does_not_hide_a_newer_crash(tree, capsys) -> None:
    """The launcher records when the dead process had started, so that its record is the newest. In
    the candidate that is a regression, in the baseline bad input."""
    old, new = tree("old", moe=1.2), tree("new")
    died(new, new.trial("moe", 1.2))
    assert compare_folders(old.folder, new.folder).exit_code == 1
    assert main(["compare", str(new.folder), str(old.folder)]) == 2
    assert "a baseline with 1 failed trial(s)" in capsys.readouterr().err


@pytest.mark.parametrize(("written_unix_s", "code"), [(3.0, 1), (0.5, 0)])
def test_a_record_without_its_start_counts_from_when_it_was_written(
    tree, written_unix_s, code
) -> None:
    """The other record started at 1 s: a crash written at 3 s is newer, one at 0.5 s is older."""
    old, new = tree("old", moe=1.2), tree("new")
    path = died(new, new.trial("moe", 1.2)) / "record.json"
    record = json.loads(path.read_text())
    del record["provenance"]["started_unix_s"]
    path.write_text(json.dumps(record))
    os.utime(path, (written_unix_s, written_unix_s))
    assert compare_folders(old.folder, new.folder).exit_code == code


def test_a_rerun_without_the_trial_confirms_nothing(tree) -> None:
    """A regression that the rerun did not measure is inconclusive, and the command names both."""
    old, new, again = tree("old", moe=1.2), tree("new", moe=1.4), tree("a rerun")
    verdict = compare_folders(old.folder, new.folder, again.folder)
    (row,) = [row for row in verdict.rows if row.metric.startswith("time")]
    assert (row.judgement, verdict.exit_code) == ("inconclusive", 3)
    assert "the rerun does not show it" in row.reason
    command = [
        "condbench",
        "compare",
        str(old.folder),
        str(new.folder),
        "--rerun",
        str(again.folder),
    ]
    assert shlex.split(verdict.commands[0]) == command


def test_older_records_of_a_trial_are_a_note(tree) -> None:
    """Of two records of one trial the newest counts, and a note counts the others."""
    old, new = tree("old", moe=1.2), tree("new", moe=1.9)

    def later(content) -> None:
        content["key"] = "another0"
        content["provenance"]["started_unix_s"] = 2.0

    new.trial("moe", 1.2, change=later)
    verdict = compare_folders(old.folder, new.folder)
    assert verdict.outcome == "ok"
    assert any("1 older record(s) left out" in note for note in verdict.notes)


def energy(metric: Metric | None, device: str):
    def change(content) -> None:
        content["labels"]["device"] = device
        if metric is not None:
            content["metrics"]["infer/energy_ratio"] = metric.model_dump()

    return change


STUCK = missing("1", "CounterStuck: for 3 s")
GOOD = Metric(value=1.5, unit="1", low=1.49, high=1.51)
HALF = Metric(value=1.5, unit="1", low=1.49)
DOUBT = Metric(value=1.5, unit="1", low=1.49, high=1.51, valid=False, reason="Inconsistent: x")


@pytest.mark.parametrize(
    ("before", "now", "device", "judgement", "reason"),
    [
        (GOOD, GOOD, "cuda", "equal", None),
        (GOOD, STUCK, "cuda", "inconclusive", "candidate: CounterStuck: for 3 s"),
        (STUCK, GOOD, "cuda", "inconclusive", "baseline: CounterStuck: for 3 s"),
        (STUCK, STUCK, "cuda", "inconclusive", "baseline: CounterStuck: for 3 s"),
        (GOOD, DOUBT, "cuda", "inconclusive", "candidate: Inconsistent: x"),
        (GOOD, None, "cuda", "inconclusive", "candidate: no valid energy with its interval"),
        (GOOD, HALF, "cuda", "inconclusive", "candidate: no valid energy with its interval"),
        (missing("1", "no NVIDIA GPU"), missing("1", "no NVIDIA GPU"), "cpu", None, None),
    ],
)
def test_energy_is_never_green_by_omission(tree, before, now, device, judgement, reason) -> None:
    """On a GPU, joules that are missing or doubtful on either side are inconclusive with their
    reason; a CPU has no energy counter."""
    old, new = tree("old"), tree("new")
    old.trial("moe", 1.2, change=energy(before, device))
    new.trial("moe", 1.2, change=energy(now, device))
    verdict = compare_folders(old.folder, new.folder)
    rows = [row for row in verdict.rows if row.metric.startswith("energy")]
    assert [(row.judgement, row.reason) for row in rows] == (
        [(judgement, reason)] if judgement else []
    )
    assert verdict.exit_code == (3 if judgement == "inconclusive" else 0)


JUDGEMENTS = st.lists(st.sampled_from(["regressed", "improved", "equal", "inconclusive"]))


@given(JUDGEMENTS, JUDGEMENTS, st.lists(st.just("x"), max_size=1))
def test_green_needs_everything(rows, controls, differences) -> None:
    """0 if and only if something was judged, all of it equal or improved, there are controls, every
    one of them equal, and nothing was left out as not comparable."""
    verdict = Verdict("A", "B", "cpu", differences=differences)
    verdict.rows = [Row("m", str(number), each) for number, each in enumerate(rows)]
    verdict.controls = [Row("c", str(number), each) for number, each in enumerate(controls)]
    green = bool(rows) and set(rows) <= {"equal", "improved"} and set(controls) == {"equal"}
    assert (verdict.exit_code == 0) == (green and not differences)
