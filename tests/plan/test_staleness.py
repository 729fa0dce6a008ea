"""A trial's state: done, missing, failed, stale and why, or something foreign in the way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bench.plan import identity, staleness
from bench.plan.matrix import make_plan
from bench.plan.staleness import Foreign, differences, find_states, write_trials
from bench.records.record import RECORD_NAME, TRIAL_NAME, Metric, Record, write_record

if TYPE_CHECKING:
    from conftest import House

    from bench.plan.planned import PlannedTrial
    from bench.plan.staleness import State


def planned(*overrides: str) -> PlannedTrial:
    """The dense trial on digits that the overrides plan."""
    (trial,) = make_plan(["method=dense", *overrides]).trials
    return trial


def record(trial: PlannedTrial, status: str = "ok", **fields: object) -> None:
    """Leave what a finished trial leaves: trial.json and record.json."""
    (folder,) = write_trials([trial])
    reason = None if status == "ok" else "because"
    content = {"key": trial.key, "status": status, "reason": reason, "labels": trial.labels}
    write_record(folder, Record.model_validate({**content, "config": trial.config, **fields}))


def state(trial: PlannedTrial, *retries: str) -> State:
    """The trial's state in a plan of its own."""
    return find_states([trial], retries)[0]


def test_a_trial_without_a_record_is_to_do(house: House) -> None:
    """No folder, no record: the trial runs."""
    found = state(planned())
    assert (found.kind, found.why, found.runs) == ("to do", "", True)


def test_a_folder_without_a_record_is_to_do(house: House) -> None:
    """What was interrupted left trial.json only, and runs."""
    trial = planned()
    write_trials([trial])
    assert state(trial).kind == "to do"


@pytest.mark.parametrize("status", ["ok", "skipped"])
def test_a_record_under_the_same_key_is_done(house: House, status: str) -> None:
    """ok and skipped trials are not run again, also by another process."""
    record(planned(), status)
    found = state(planned())
    assert (found.kind, found.why, found.runs) == ("done", status, False)


def test_a_resume_reads_keys_only(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """No record is parsed to find out that a trial is done."""
    trial = planned()
    record(trial)

    def refuse(path: object) -> Record:
        raise AssertionError(f"{path} was parsed")

    monkeypatch.setattr(staleness, "read_record", refuse)
    assert state(trial).kind == "done"


def test_a_failed_trial_waits_for_retry(house: House) -> None:
    """A failure is kept until retry=failed asks for it."""
    trial = planned()
    record(trial, "failed")
    assert (state(trial).kind, state(trial).runs) == ("failed", False)
    assert (state(trial, "failed").kind, state(trial, "failed").runs) == ("again", True)
    assert state(trial, "invalid").kind == "failed"


def test_retry_invalid_measures_again_what_does_not_count(house: House) -> None:
    """A metric with a number that is not valid is measured again; one that is missing is not."""
    noisy = Metric(value=1.2, unit="1", valid=False, reason="not steady")
    absent = Metric(value=None, unit="j", valid=False, reason="no GPU")
    trial = planned()
    record(trial, metrics={"infer/speedup_b1": noisy, "infer/energy_j_per_sample": absent})
    found = state(trial, "invalid")
    assert (found.kind, found.why) == ("again", "not valid: infer/speedup_b1")
    assert state(trial).kind == "done"


def test_a_record_of_the_same_cell_under_another_key_is_stale(house: House) -> None:
    """What was measured with other settings is stale, and the settings are named."""
    record(planned("measure.rounds=10"))
    found = state(planned("measure.rounds=20"))
    assert (found.kind, found.why, found.runs) == ("stale", "measure.rounds 10 -> 20", True)


def test_changed_code_makes_a_record_stale(house: House) -> None:
    """An edited method is measured again, and the module is named."""
    record(planned())
    source = house.source.read_text()
    house.source.write_text(source + "\nADDED = 1\n")
    assert state(planned()).why == "; ".join(["code of fakehouse changed"] * 3)


def test_changed_code_of_a_controlled_method_makes_the_control_stale(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A control names its method by the setting `of`; that method's code is part of its key."""
    source = tmp_path / "controlled.py"
    source.write_text("from fakehouse import MoE as Other\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    house.offer("method", control="Control", other="controlled:Other")
    overrides = ["method=control", "method.of=other"]
    _, before = make_plan(overrides).trials
    record(before)
    _, same = make_plan(overrides).trials
    assert same.key == before.key
    source.write_text("from fakehouse import MoE as Other\nADDED = 1\n")
    _, after = make_plan(overrides).trials
    assert state(after).why == "code of the method other changed"


def test_a_stored_dense_model_is_outdated_by_the_meters_of_its_costs(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its costs are reused with its weights: other meters of training mean another checkpoint."""
    before = planned()
    monkeypatch.setattr(
        identity, "training_closure", lambda: {"bench.meters.flops.counter": "edited"}
    )
    assert planned().checkpoint != before.checkpoint


def test_another_seed_or_variant_is_not_stale(house: House) -> None:
    """A different cell of the matrix is something else, not an outdated result."""
    record(planned("seed=0"))
    assert state(planned("seed=1")).kind == "to do"
    assert state(planned("train.steps=9")).kind == "to do"


def test_trials_of_one_plan_do_not_outdate_each_other(house: House) -> None:
    """Two profiles planned together are two trials, whichever was measured first."""
    record(planned("measure=quick"))
    trials = make_plan(["measure=quick,standard"]).trials
    assert [found.kind for found in find_states(trials)] == ["done", "to do"]


def test_the_nearest_earlier_result_explains(house: House) -> None:
    """Of several outdated results, the one with the fewest differences is compared with."""
    record(planned("measure=publish"))
    record(planned("measure.rounds=19"))
    assert state(planned("measure.rounds=20")).why == "measure.rounds 19 -> 20"


def test_differences_name_versions_data_and_harness(house: House) -> None:
    """Every part of an identity has its phrase."""
    now = planned().identity
    before = json.loads(json.dumps(now))
    before["versions"] |= {"torch": "2.12.0", "old_idea": "1.0"}
    before["code"]["harness"] = "x"
    before["data"] = "y"
    before["hardware"] = "cpu-1x-z80"
    assert list(differences(before, now)) == [
        "code of the measuring rooms changed",
        "data of fakehouse changed",
        f"hardware cpu-1x-z80 -> {now['hardware']}",
        "old_idea 1.0 -> none",
        f"torch 2.12.0 -> {now['versions']['torch']}",
    ]


@pytest.mark.parametrize("content", ["", "{}", "not json", '{"name": "mine"}', "\x00\xff"])
def test_a_foreign_file_is_in_the_way_and_stays(house: House, content: str) -> None:
    """Something that is no record is named, not overwritten, and the trial does not run."""
    trial = planned()
    trial.folder.mkdir(parents=True)
    path = trial.folder / RECORD_NAME
    path.write_text(content)
    found = state(trial)
    assert (found.kind, found.runs) == ("in the way", False)
    assert str(path) in found.why
    assert "move it away or delete it" in found.why
    assert path.read_text() == content


def test_a_record_cut_off_is_in_the_way(house: House) -> None:
    """A damaged record is told by its end, without parsing it."""
    trial = planned()
    record(trial)
    path = trial.folder / RECORD_NAME
    path.write_text(path.read_text()[:700])
    assert state(trial).kind == "in the way"
    assert "cut off" in state(trial).why


def test_a_cell_that_cannot_be_listed_is_in_the_way(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What lies there is unknown, so nothing is run over it."""
    record(planned())

    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    other = planned("measure.rounds=8")
    monkeypatch.setattr(Path, "iterdir", refuse)
    found = state(other)
    assert (found.kind, found.runs) == ("in the way", False)
    assert "dense: cannot be listed (Permission denied); make it readable" in found.why


def test_a_record_damaged_within_is_not_measured_over(house: House) -> None:
    """retry=invalid reads the whole record: what it cannot read it leaves in place."""
    trial = planned()
    record(trial)
    path = trial.folder / RECORD_NAME
    path.write_text(path.read_text().replace('"metrics"', '"matrics"'))
    found = state(trial, "invalid")
    assert (found.kind, found.runs) == ("in the way", False)
    assert str(path) in found.why


def test_a_record_of_another_trial_is_in_the_way(house: House) -> None:
    """A folder with a copied record is not taken for the trial's own."""
    trial, other = planned(), planned("seed=1")
    record(other)
    trial.folder.mkdir(parents=True)
    (trial.folder / RECORD_NAME).write_bytes((other.folder / RECORD_NAME).read_bytes())
    assert "the record of another trial" in state(trial).why


def test_a_foreign_trial_json_stops_everything_before_anything_is_written(house: House) -> None:
    """Either all folders are prepared, or none."""
    first, second = planned(), planned("seed=1")
    second.folder.mkdir(parents=True)
    (second.folder / TRIAL_NAME).write_text('{"mine": 1}')
    with pytest.raises(Foreign, match="not this trial's file"):
        write_trials([first, second])
    assert not first.folder.exists()
    assert (second.folder / TRIAL_NAME).read_text() == '{"mine": 1}'


def test_writing_again_refreshes_what_is_no_part_of_the_key(house: House) -> None:
    """The same trial with another time limit keeps its folder and gets the new limit."""
    trial, longer = planned(), planned("timeout_s=9")
    assert longer.folder == trial.folder
    write_trials([trial])
    write_trials([longer])
    assert json.loads((trial.folder / TRIAL_NAME).read_text())["config"]["timeout_s"] == 9


def test_a_results_folder_below_a_file_is_an_oserror(house: House) -> None:
    """What cannot be written is an OSError with its path, and the state is to do."""
    (house.conf.parents[1] / "file").write_text("x")
    trial = planned("results=file/results")
    assert state(trial).kind == "to do"
    with pytest.raises(OSError, match="file/results"):
        write_trials([trial])


@pytest.mark.parametrize(
    ("override", "same"),
    [
        ("measure=publish", True),
        ("method=moe", True),
        ("timeout_s=9", True),
        ("wandb.mode=disabled", True),
        ("name=other", True),
        ("train.fine_tune_lr_share=0.1", True),
        ("seed=1", False),
        ("train.lr=0.1", False),
        ("backbone.depth=2", False),
        ("task.canvas=24", False),
        ("gpu.precision=bf16", False),
    ],
)
def test_the_dense_checkpoint_is_shared_where_training_is_the_same(
    house: House, override: str, same: bool
) -> None:
    """How, with what beside it and under which name it is measured plays no part."""
    default, changed = planned(), make_plan([override]).trials[0]
    assert (default.checkpoint == changed.checkpoint) == same


def test_a_budget_leaves_the_start_as_it_is(house: House) -> None:
    """With train.flops the dense row has a model of its own; methods start from the recipe's."""
    default, bounded = planned(), planned("train.flops=1e9")
    assert default.start == default.checkpoint == bounded.start != bounded.checkpoint
    assert bounded.checkpoint != planned("train.flops=2e9").checkpoint


@pytest.mark.parametrize(
    ("override", "same"),
    [
        ("timeout_s=9", True),
        ("wandb.mode=disabled", True),
        ("name=other", True),
        ("results=elsewhere", True),
        ("measure=publish", False),
        ("gpu.threads=1", False),
        ("backbone.depth=2", False),
    ],
)
def test_a_key_is_what_can_change_a_number(house: House, override: str, same: bool) -> None:
    """Where results go and how long they may take is no part of a key."""
    assert (planned().key == planned(override).key) == same
