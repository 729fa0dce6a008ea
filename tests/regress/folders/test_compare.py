"""Two result folders: what is judged, what is rejected, what is not comparable."""

from __future__ import annotations

import numpy as np
import pytest

from bench.records.reading import read
from bench.regress.folders.compare import compare_folders
from bench.regress.markdown import body
from bench.regress.verdict import BadInput, Verdict

GIB = 2**30


def row(verdict: Verdict, metric: str):
    (found,) = [each for each in verdict.rows if each.metric.startswith(metric)]
    return found


def with_other_code(side) -> None:
    """Change the hash of the method's code in every record."""
    for path in side.folder.rglob("record.json"):
        path.write_text(path.read_text().replace('"method": "a"', '"method": "b"'))


@pytest.fixture
def two(tree):
    """two(candidate's moe cost): both folders, the baseline's moe costing 1.2."""

    def make(cost: float):
        return tree("old", moe=1.2), tree("new", moe=cost)

    return make


def test_an_unchanged_method_is_equal(two) -> None:
    """The same relative cost in both sessions is equal, and the verdict is ok."""
    old, new = two(1.2)
    verdict = compare_folders(old.folder, new.folder)
    assert row(verdict, "time").judgement == "equal"
    assert (verdict.outcome, verdict.exit_code) == ("ok", 0)


def test_a_slower_method_is_regressed(two) -> None:
    """+10 % relative to dense exceeds +2 %: exit code 1, and code is the probable cause."""
    old, new = two(1.32)
    with_other_code(new)
    verdict = compare_folders(old.folder, new.folder)
    found = row(verdict, "time")
    assert found.judgement == "regressed"
    assert found.ratio.value == pytest.approx(1.10, abs=0.01)
    assert (verdict.outcome, verdict.exit_code) == ("regressed", 1)
    assert found.cause.startswith("code: paired with dense in its own process")


def test_a_faster_method_is_improved_and_green(two) -> None:
    """-10 % is improved, which is no failure."""
    old, new = two(1.08)
    verdict = compare_folders(old.folder, new.folder)
    assert (row(verdict, "time").judgement, verdict.exit_code) == ("improved", 0)


def test_a_rerun_can_withdraw_a_suspected_regression(two, tree) -> None:
    """Where a second run of the candidate shows no regression, the rerun's judgement counts."""
    old, new = two(1.32)
    again = tree("again", moe=1.2)
    verdict = compare_folders(old.folder, new.folder, again.folder)
    assert row(verdict, "time").judgement == "equal"
    assert verdict.confirmed
    assert verdict.exit_code == 0


def test_a_rerun_confirms(two, tree) -> None:
    """A regression in both runs of the candidate stays one."""
    old, new = two(1.32)
    again = tree("again", moe=1.32)
    assert compare_folders(old.folder, new.folder, again.folder).exit_code == 1


def test_a_rerun_against_the_same_baseline_squares_no_error(two, tree) -> None:
    """Both comparisons share the baseline's session, whose chance error counts twice: 3 metrics
    (time, two qualities) at 2.5 % stay 7.5 %, and the body states it."""
    old, new = two(1.2)
    again = tree("again", moe=1.2)
    verdict = compare_folders(old.folder, new.folder, again.folder)
    assert len(verdict.rows) == 3
    assert verdict.family_wise_error == pytest.approx(0.075)
    assert "confirmed by a rerun against the same baseline run" in body(verdict)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("old", "old"), "CANDIDATE .*old and BASELINE .*old hold the same records"),
        (("old", "old/cpu-2x-test"), "hold the same records"),
        ((".", "new"), "hold the same records"),
        (("old", "new", "new/../new"), "--rerun .*new and CANDIDATE .*new hold the same records"),
        (("old", "new", "old/cpu-2x-test"), "--rerun .* and BASELINE .* hold the same records"),
        (("old", "new", "link"), "--rerun .*link and CANDIDATE"),
    ],
)
def test_a_run_is_not_compared_with_itself(two, tmp_path, names, words) -> None:
    """The same folder twice, one inside the other, or behind a link, is bad input."""
    two(1.2)
    (tmp_path / "link").symlink_to(tmp_path / "new")
    with pytest.raises(BadInput, match=words):
        compare_folders(*(tmp_path / name for name in names))


def test_a_changed_canary_points_at_the_machine(two) -> None:
    """Where the fixed workload's time moved by more than 5 %, the cause may be the machine."""
    old, new = two(1.32)
    with_other_code(new)
    for folder in new.folder.rglob("record.json"):
        folder.write_text(folder.read_text().replace('"canary_s": 0.003', '"canary_s": 0.0045'))
    found = row(compare_folders(old.folder, new.folder), "time")
    assert found.cause == "machine or code: the canary moved too (1.50x)"


def test_a_control_that_is_not_equal_voids_the_comparison(tree) -> None:
    """Dense 10 % slower than itself: this machine's times do not count, exit code 3."""
    old = tree("old", moe=1.2)
    new = tree("new", moe=1.2)
    broken = tree("broken")
    broken.trial("moe", 1.2)
    for folder in broken.folder.glob("*/dense/*"):
        folder.rename(folder.with_name("aside"))
        broken.folder.joinpath("cpu-2x-test/dense/aside/record.json").unlink()
    broken.trial("dense", 1.1)
    assert compare_folders(old.folder, new.folder).outcome == "ok"
    verdict = compare_folders(old.folder, broken.folder)
    assert (verdict.outcome, verdict.exit_code) == ("void", 3)


@pytest.fixture
def void(tree):
    """void(candidate's moe cost, change): a candidate whose dense is 10 % slower than itself."""

    def make(cost: float, change=lambda content: None) -> Verdict:
        old, new = tree("old", moe=1.2), tree("new")
        next(new.folder.glob("*/dense/*/record.json")).unlink()
        new.trial("dense", 1.1, change=lambda c: (change(c), c.update(key="dense1")))
        new.trial("moe", cost, change=change)
        return compare_folders(old.folder, new.folder)

    return make


def test_without_equal_controls_no_time_is_judged(void) -> None:
    """+30 % of a machine that cannot time: neither regressed nor a cause, whatever the number."""
    found = row(void(1.56), "time")
    assert (found.judgement, found.reason) == ("inconclusive", "a control is not equal")
    assert found.ratio.value > 1.2  # kept for the reader
    assert found.cause is None


def test_another_machine_is_more_than_a_control_that_is_not_equal(void) -> None:
    """Exit code 4 and not 3: repeating it on that machine would not help."""
    verdict = void(1.2, lambda content: content["environment"].update(cpu_model="EPYC"))
    assert (verdict.outcome, verdict.exit_code) == ("not comparable", 4)


def test_code_is_no_cause_where_it_is_the_same(two) -> None:
    """Both sides have the hash "a": what regressed is not called an effect of code."""
    old, new = two(1.32)
    cause = row(compare_folders(old.folder, new.folder), "time").cause
    assert cause.startswith("not the plugins' code, which is the same on both sides")


def _with_counts(flops: float, steps: int = 20, gates: int = 2, params: int = 1000):
    def change(content) -> None:
        content["metrics"]["infer/flops_per_sample"] = {"value": flops, "unit": "flop"}
        content["metrics"]["model/params"] = {"value": params, "unit": "count"}
        content["config"] = {**content["config"], "train": {"steps": steps}}
        content["diagnostics"]["routing"] = {"num_gates": gates}

    return change


@pytest.mark.parametrize(
    ("method", "settings", "judged"),
    [
        ("dense", {}, True),
        ("moe", {"steps": 0}, True),  # its gates are those of the first weights
        ("moe", {"gates": 0}, True),
        ("moe", {}, False),  # trained gates may decide otherwise
    ],
)
@pytest.mark.parametrize(("now", "judgement"), [(2e6, "regressed"), (5e5, "improved")])
def test_fixed_counts_are_judged(tree, method, settings, judged, now, judgement) -> None:
    """Executed FLOPs of what no training changes: a row and an exit code, without any control."""
    sides = [tree("old"), tree("new")]
    for side, flops in zip(sides, (1e6, now), strict=True):
        if method == "dense":
            next(side.folder.glob("*/dense/*/record.json")).unlink()
        side.trial(method, change=lambda c, f=flops: (
            _with_counts(f, **settings)(c), c.update(key=f"{method}1")
        ))  # fmt: skip
    verdict = compare_folders(*(side.folder for side in sides))
    found = [each for each in verdict.rows if each.metric == "executed FLOPs"]
    assert [each.judgement for each in found] == [judgement] * judged
    assert len(verdict.changes) == (not judged)
    assert (verdict.exit_code == 1) == (judged and judgement == "regressed")


def test_without_a_control_nothing_is_concluded(tree, tmp_path) -> None:
    """A run without dense has no A/A control: void."""
    old, new = tree("old", moe=1.2), tree("new", moe=1.2)
    for side in (old, new):
        next(side.folder.glob("*/dense/*/record.json")).unlink()
    assert compare_folders(old.folder, new.folder).outcome == "void"


def test_few_rounds_are_inconclusive_and_not_green(tree) -> None:
    """Four noisy rounds a side are too few: exit code 3, never 0."""
    old, new = tree("old"), tree("new")
    old.trial("moe", 1.2, rounds=4)
    new.trial("moe", 1.2, rounds=4)
    verdict = compare_folders(old.folder, new.folder)
    assert row(verdict, "time").judgement == "inconclusive"
    assert (verdict.outcome, verdict.exit_code) == ("inconclusive", 3)


def test_a_trial_that_now_fails_is_regressed(tree) -> None:
    """ok in the baseline and failed in the candidate is a regression with the reason."""
    old, new = tree("old", moe=1.2), tree("new")
    new.trial("moe", status="failed", reason="out of memory")
    verdict = compare_folders(old.folder, new.folder)
    assert verdict.exit_code == 1
    assert row(verdict, "trial").reason == "ok -> failed: out of memory"


def test_a_trial_that_is_gone_is_inconclusive(tree) -> None:
    """What the candidate did not run is not green."""
    verdict = compare_folders(tree("old", moe=1.2).folder, tree("new").folder)
    assert (row(verdict, "trial").judgement, verdict.exit_code) == ("inconclusive", 3)


def test_a_metric_that_became_invalid_is_inconclusive(tree) -> None:
    """A timing that has become invalid is not green; the reason is kept."""

    def unsettled(content) -> None:
        content["metrics"]["infer/speedup_b64"] |= {"valid": False, "reason": "never settled"}

    old, new = tree("old", moe=1.2), tree("new")
    new.trial("moe", 1.2, change=unsettled)
    found = row(compare_folders(old.folder, new.folder), "time")
    assert (found.judgement, found.reason) == ("inconclusive", "candidate: never settled")


def test_quality_is_paired_by_seed(tree) -> None:
    """Five points lost on every one of three seeds is a regression of quality."""
    old, new = tree("old"), tree("new")
    for seed, quality in enumerate((80.0, 82.0, 78.0)):
        old.trial("moe", 1.2, seed=seed, quality=quality)
        new.trial("moe", 1.2, seed=seed, quality=quality - 5.0 - 0.1 * seed)
    found = [
        each
        for each in compare_folders(old.folder, new.folder).rows
        if each.model.endswith("moe") and each.metric == "quality"
    ]
    assert [each.judgement for each in found] == ["regressed"]


def test_energy_is_judged_where_both_have_it(tree) -> None:
    """energy_ratio is dense / method: from 2.0 to 1.8 the method costs 11 % more."""

    def energy(value: float):
        def change(content) -> None:
            metric = {"value": value, "unit": "1", "low": 0.99 * value, "high": 1.01 * value}
            content["metrics"]["infer/energy_ratio"] = metric

        return change

    old, new = tree("old"), tree("new")
    old.trial("moe", 1.2, change=energy(2.0))
    new.trial("moe", 1.2, change=energy(1.8))
    found = row(compare_folders(old.folder, new.folder), "energy")
    assert found.judgement == "regressed"
    assert found.ratio.value == pytest.approx(2.0 / 1.8)


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        (
            lambda c: c["provenance"]["identity"]["versions"].update(torch="2.14.0"),
            "version of torch 2.13.0 -> 2.14.0",
        ),
        (lambda c: c["provenance"]["identity"].update(data="other"), "data hash d -> other"),
        (
            lambda c: c["provenance"]["identity"]["config"]["method"].update(num_experts=16),
            "method.num_experts 8 -> 16",
        ),
        (lambda c: c["environment"].update(num_threads=2), "threads 1 -> 2"),
        (lambda c: c["environment"].update(world_size=2), "devices that trained together 1 -> 2"),
        (lambda c: c["environment"].update(gpus=[{"name": "H200"}]), "number of GPUs 0 -> 1"),
        (lambda c: c["environment"].update(cpu_model="EPYC"), "processor Xeon -> EPYC"),
        (lambda c: c["environment"].update(cpu={"family": "26"}), "processor's family null -> 26"),
        (lambda c: c["environment"].update(num_cores=4), "number of cores 2 -> 4"),
        (lambda c: c["environment"].update(governor="powersave"), "CPU governor null -> powersave"),
        (lambda c: c["environment"].update(memory_bytes=16 * GIB), "memory 8.0 GiB -> 16.0 GiB"),
        (lambda c: c["environment"].pop("memory_bytes"), "memory 8.0 GiB -> unknown"),
        (
            lambda c: c["environment"]["thread_settings"].update(OMP_NUM_THREADS="2"),
            "OMP_NUM_THREADS null -> 2",
        ),
        (
            lambda c: c["environment"]["versions"].update({"scikit-learn": "1.8"}),
            "version of scikit-learn 1.7 -> 1.8",
        ),
        (lambda c: c["quality"].update(direction="lower"), "direction of quality higher -> lower"),
        (
            lambda c: c["metrics"]["infer/quality"].update(unit="nat"),
            "unit of quality accuracy % -> nat",
        ),
    ],
)
def test_what_is_not_comparable_is_listed(tree, change, difference) -> None:
    """A difference that is not code ends in exit code 4 and is named."""
    old, new = tree("old", moe=1.2), tree("new")
    new.trial("moe", 1.2, change=change)
    verdict = compare_folders(old.folder, new.folder)
    assert (verdict.outcome, verdict.exit_code) == ("not comparable", 4)
    assert difference in verdict.differences


@pytest.mark.parametrize(
    "facts",
    [
        {"memory_bytes": 8 * GIB + 4096},  # the kernel keeps some kB more or less at each boot
        {"versions": {"scikit-learn": "1.7", "condbench": "9", "wandb": "9"}},
        {"kernel": "6.2"},
        {"load_1min": 3.0},
    ],
)
def test_what_changes_no_number_is_comparable(tree, facts) -> None:
    """Some kB of memory, our own version, a mirror's, load, and the kernel, which is a note."""
    old, new = tree("old", moe=1.2), tree("new")
    new.trial("moe", 1.2, change=lambda c: c["environment"].update(facts))
    verdict = compare_folders(old.folder, new.folder)
    assert (verdict.differences, verdict.exit_code) == ([], 0)
    kernels = [note for note in verdict.notes if "kernel" in note]
    assert kernels == (["kernel 6.1 -> 6.2: it may change times"] if "kernel" in facts else [])


def test_a_dense_trial_that_crashes_is_regressed(tree) -> None:
    """Its timing rows have lost their control; that it fails where it worked is exit code 1."""
    old, new = tree("old", moe=1.2), tree("new", moe=1.2)
    next(new.folder.glob("*/dense/*/record.json")).unlink()
    new.trial("dense", status="failed", reason="boom", change=lambda c: c.update(key="dense1"))
    verdict = compare_folders(old.folder, new.folder)
    assert row(verdict, "trial").reason == "ok -> failed: boom"
    assert (verdict.outcome, verdict.exit_code) == ("regressed", 1)


def test_nothing_timed_is_not_green(tree) -> None:
    """Without batch sizes there is no time and no control: void, although quality is equal."""

    def untimed(content) -> None:
        content["config"] = {**content["config"], "measure": {}}

    sides = [tree("old"), tree("new")]
    for side in sides:
        next(side.folder.glob("*/dense/*/record.json")).unlink()
        side.trial("dense", change=lambda c: (untimed(c), c.update(key="dense1")))
        side.trial("moe", 1.2, change=untimed)
    verdict = compare_folders(*(side.folder for side in sides))
    assert [row.metric for row in verdict.rows] == ["quality", "quality"]
    assert (verdict.outcome, verdict.exit_code) == ("void", 3)


def test_what_neither_supports_is_a_note(tree) -> None:
    """Skipped on both sides is no row, but a note."""
    old, new = tree("old"), tree("new")
    for side in (old, new):
        side.trial("moe", status="skipped", reason="needs tokens")
    verdict = compare_folders(old.folder, new.folder)
    note = "digits/transformer/moe/seed0: skipped on both sides (needs tokens)"
    assert note in verdict.notes
    assert verdict.exit_code == 0


@pytest.mark.parametrize(
    ("fact", "values"), [("driver", ("550", "560")), ("power_limit_w", (700, 500))]
)
def test_driver_and_power_limit_must_be_equal(tree, fact, values) -> None:
    """The same GPU with another driver or power limit is another machine."""
    sides = []
    for name, value in zip(("old", "new"), values, strict=True):
        side = tree(name)
        gpu = {"name": "H200", "driver": "550", "power_limit_w": 700, fact: value}
        side.trial("moe", 1.2, change=lambda c, gpu=gpu: c["environment"].update(gpus=[gpu]))
        sides.append(side.folder)
    assert any(fact in line for line in compare_folders(*sides).differences)


def test_how_many_rounds_is_no_difference(tree) -> None:
    """Intervals carry the number of rounds: 30 compares with 60."""
    old, new = tree("old", moe=1.2), tree("new")
    new.trial(
        "moe",
        1.2,
        rounds=60,
        change=lambda c: c["provenance"]["identity"]["config"]["measure"].update(rounds=60),
    )
    assert compare_folders(old.folder, new.folder).differences == []


def test_other_hardware_is_not_comparable(tree) -> None:
    """Two machines: exit code 4, hardware named."""
    old, new = tree("old", moe=1.2), tree("new", moe=1.2)
    text = list(new.folder.rglob("record.json"))
    for path in text:
        path.write_text(path.read_text().replace("cpu-2x-test", "cpu-4x-other"))
    verdict = compare_folders(old.folder, new.folder)
    assert verdict.exit_code == 4
    assert "hardware cpu-2x-test -> cpu-4x-other" in verdict.differences


def test_nothing_in_common_is_not_comparable(tree) -> None:
    """An empty intersection of trials is reported with an example of each side."""
    old, new = tree("old"), tree("new")
    next(old.folder.rglob("record.json")).unlink()
    old.trial("moe", 1.2)
    verdict = compare_folders(old.folder, new.folder)
    assert verdict.exit_code == 4
    assert "no trial in common" in verdict.differences[0]


def test_two_machines_in_one_folder_are_rejected(tree) -> None:
    """Nothing is averaged over hardware: name one machine's folder."""
    old, new = tree("old", moe=1.2), tree("new", moe=1.2)
    new.trial("moe", 1.2, hardware="cpu-4x-other")
    with pytest.raises(BadInput, match="records of several machines"):
        compare_folders(old.folder, new.folder)


def test_a_baseline_with_failed_trials_is_rejected(tree) -> None:
    """A trial that failed in the baseline cannot be compared with the candidate's."""
    old, new = tree("old"), tree("new", moe=1.2)
    old.trial("moe", status="failed", reason="boom")
    with pytest.raises(BadInput, match=r"1 failed trial.*boom"):
        compare_folders(old.folder, new.folder)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda path: path.write_text("{"), "not readable as JSON"),
        (
            lambda path: path.write_text(
                path.read_text().replace('"schema_version": 1', '"schema_version": 2')
            ),
            "schema version 2",
        ),
        (
            lambda path: path.write_text(
                path.read_text().replace('"device": "cpu"', '"device": "fake"')
            ),
            "fake device",
        ),
        (lambda path: path.with_name("raw.npz").write_bytes(b"PK broken"), "damaged"),
    ],
)
def test_damaged_input_is_rejected(tree, damage, words) -> None:
    """A damaged record or file of rounds, or another schema, is named in the message."""
    old, new = tree("old", moe=1.2), tree("new", moe=1.2)
    damage(next(new.folder.glob("*/moe/*/record.json")))
    with pytest.raises(BadInput, match=words):
        compare_folders(old.folder, new.folder)


def test_missing_folders_are_rejected(tree, tmp_path) -> None:
    """A folder that is not there, or has no record: the message gives the way out."""
    old = tree("old").folder
    with pytest.raises(BadInput, match="no such folder"):
        compare_folders(old, tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match=r"no readable record below .*; run an experiment first"):
        compare_folders(old, tmp_path / "empty")


def test_a_comparison_rejects_what_a_report_leaves_out(tree) -> None:
    """The sentences are those of the reader: every damaged and fake record, by file."""
    old, new = tree("old", moe=1.2), tree("new", moe=1.2, early_exit=1.1)
    first, second = (next(new.folder.glob(f"*/{m}/*/record.json")) for m in ("moe", "early_exit"))
    first.write_text("{")
    second.write_text(second.read_text().replace('"device": "cpu"', '"device": "fake"'))
    problems = read([new.folder]).problems
    assert len(problems) == 2
    with pytest.raises(BadInput) as caught:
        compare_folders(old.folder, new.folder)
    head, *lines = str(caught.value).splitlines()
    assert "2 record(s) cannot be compared; delete their folders or run them again" in head
    assert lines == problems


def test_rounds_in_which_the_gpu_slowed_down_are_not_compared(tree) -> None:
    """Ten of 40 rounds at half speed, which the trial did not count either, change no ratio."""
    old, new = tree("old", moe=1.2), tree("new")
    folder = new.trial("moe", 1.2, rounds=40)
    with np.load(folder / "raw.npz") as raw:
        arrays = dict(raw)
    arrays["candidate_s_b64_point0"][:10] *= 2
    reasons = ["HwThermalSlowdown"] * 10 + [""] * 30
    np.savez(folder / "raw.npz", **arrays, reason_b64_point0=reasons)
    found = row(compare_folders(old.folder, new.folder), "time")
    assert (found.judgement, found.ratio.num_values) == ("equal", 30)
    assert found.ratio.value == pytest.approx(1.0, abs=0.005)
