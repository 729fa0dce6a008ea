"""A whole night over toy revisions, in real processes: every way in which it can end."""

from __future__ import annotations

import json
import shlex

import pytest

from bench.launch.devices import Machine
from bench.plan.matrix import Plan
from bench.regress.checkouts import planning
from bench.regress.checkouts.worktrees import checked_out
from bench.regress.revisions.compare import compare_revisions
from bench.regress.verdict import BadInput


def judgements(verdict, metric: str) -> list[str]:
    return [row.judgement for row in verdict.rows if row.metric == metric]


def test_an_unchanged_revision_is_green(compared, toy) -> None:
    """Equal times, equal qualities, equal controls: ok, and no worktree stays behind."""
    verdict = compared()
    assert judgements(verdict, "time b64") == ["equal", "equal"]
    assert judgements(verdict, "quality") == ["equal", "equal"]
    assert [row.metric for row in verdict.controls] == ["A/A control, time b64"]
    assert verdict.canary.judgement == "equal"
    assert (verdict.outcome, verdict.exit_code) == ("ok", 0)
    assert toy.git("worktree", "list").count("\n") == 0
    assert verdict.canary_s == pytest.approx(0.001, rel=0.01)  # measured in turns, not at the start


def test_a_slower_revision_is_regressed_and_confirmed(compared) -> None:
    """8 % more time: regressed, measured twice, code as the cause, exit code 1."""
    verdict = compared(pass_s=0.108)
    times = [row for row in verdict.rows if row.metric == "time b64"]
    assert [row.judgement for row in times] == ["regressed", "regressed"]
    assert all(row.rerun is not None and row.rerun.low > 1.02 for row in times)
    assert times[0].ratio.value == pytest.approx(1.08, abs=0.01)
    assert times[0].cause.startswith("code: the same counts, another speed")
    assert verdict.exit_code == 1


def test_more_work_is_named_as_the_cause(compared) -> None:
    """Where executed FLOPs changed as well, the cause states by how much."""
    verdict = compared(pass_s=0.108, flops=1100)
    times = {row.model.split("/")[2]: row for row in verdict.rows if row.metric == "time b64"}
    assert "infer/flops_per_sample: 1,000 -> 1,100" in times["moe"].cause
    assert times["dense"].cause == "code: the work changed as well (executed FLOPs 1,000 -> 1,100)"


def test_a_faster_revision_is_green(compared) -> None:
    """Improved is no failure."""
    verdict = compared(pass_s=0.09)
    assert (judgements(verdict, "time b64"), verdict.exit_code) == (["improved"] * 2, 0)


def test_noise_without_end_voids_the_night(compared, toy) -> None:
    """An A/A control that differs by 40 % from block to block ends the night as void."""
    noisy = {"spread": 0.4}
    verdict = compared(old=noisy, **noisy)
    assert (verdict.outcome, verdict.exit_code) == ("void", 3)
    assert judgements(verdict, "time b64") == []
    assert judgements(verdict, "quality") == ["equal", "equal"]


def test_counts_need_no_control(compared) -> None:
    """On a machine that is too noisy for any time, doubled FLOPs of dense are regressed."""
    noisy = {"spread": 0.4}
    verdict = compared(old=noisy, flops=2000, **noisy)
    (found,) = [row for row in verdict.rows if row.metric == "executed FLOPs"]
    assert (found.model, found.judgement) == ("digits/transformer/dense/seed0", "regressed")
    assert found.reason == "1,000 -> 2,000"
    assert found.cause.startswith("code")
    assert (verdict.outcome, verdict.exit_code) == ("regressed", 1)
    # Those of a method may have changed with its training: listed, not judged.
    assert verdict.changes == [
        "digits/transformer/moe/seed0 infer/flops_per_sample: 1,000 -> 2,000"
    ]


def test_a_hopeless_machine_is_given_up_early(compared) -> None:
    """After the first 20 rounds, and not after 100, of which no number could make it equal."""
    noisy = {"spread": 0.9, "canary_spread": 0.005}  # noise of the model alone
    (control,) = compared(old=noisy, **noisy).controls
    assert control.ratio.num_values == 20


def test_the_rounds_that_were_asked_for_are_measured(toy) -> None:
    """measure.rounds=20 on the command line: no more are added where they do not suffice."""
    noisy = toy.commit(spread=0.1)
    verdict = toy.night(noisy, noisy, "measure.rounds=20")
    assert {row.ratio.num_values for row in verdict.controls} == {20}


def test_times_that_never_settle_are_not_green(compared) -> None:
    """An unsettled warm-up makes a time inconclusive; in the control it voids the night."""
    verdict = compared(steady=False)  # the candidate alone
    assert judgements(verdict, "time b64") == ["inconclusive"] * 2
    assert verdict.exit_code == 3


def test_a_candidate_that_fails_is_regressed(compared) -> None:
    """A worker that dies is a regression with the end of its output."""
    verdict = compared(crash=True)
    assert judgements(verdict, "trial") == ["regressed"] * 2
    assert "toy crashed" in verdict.rows[0].reason


def test_a_candidate_that_hangs_is_regressed(compared) -> None:
    """A worker that sends no reply within the trial's limit is ended and named."""
    slow = {"methods": ["dense"], "timeout_s": 4.0}  # a busy machine starts a process in less
    verdict = compared(old=slow, sleep_s=60, **slow)
    assert "no reply within 4 s" in verdict.rows[0].reason


def test_a_baseline_that_fails_is_bad_input(compared) -> None:
    """Nothing can be compared with a baseline that does not run."""
    with pytest.raises(BadInput, match="a trial of the baseline fails"):
        compared(old={"crash": True})


def test_a_baseline_that_fails_once_is_measured_again(compared, tmp_path) -> None:
    """A crash of the baseline's first worker, in the control, does not end the night."""
    (tmp_path / "marks").mkdir()
    once = {"marks": str(tmp_path / "marks"), "once": {"crash": True}, "later": {}}
    verdict = compared({"methods": ["moe"], **once}, methods=["moe"])
    assert verdict.exit_code == 0
    assert any("A/A control" in note and "failed once" in note for note in verdict.notes)


def test_a_trial_that_fails_in_the_baseline_costs_only_itself(compared) -> None:
    """A dense that always dies is not comparable, exit code 4; the other judgements stay, with the
    control on the next trial."""
    verdict = compared({"crash_methods": ["dense"]})
    assert judgements(verdict, "time b64") == ["equal"]
    assert [control.model for control in verdict.controls] == ["digits/transformer/moe/seed0"]
    (line,) = verdict.differences
    assert line.startswith("digits/transformer/dense/seed0: a trial of the baseline fails: ")
    assert (verdict.outcome, verdict.exit_code) == ("not comparable", 4)


def test_what_became_unsupported_is_regressed(compared) -> None:
    """Unsupported where there was a result is a regression."""
    verdict = compared(skipped="needs tokens", unsupported=["dense", "moe"])
    assert verdict.rows[0].reason == "now unsupported: needs tokens"
    assert verdict.exit_code == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"config": {"num_experts": 16}}, "method.num_experts 8 -> 16"),
        ({"torch": "2.14.0"}, "version of torch 2.13.0 -> 2.14.0"),
        ({"methods": ["branches"]}, "no trial in common"),
    ],
)
def test_what_is_not_comparable_is_listed(compared, change, words) -> None:
    """Another configuration or version, or no common trial: exit code 4 and what differs."""
    verdict = compared(**change)
    assert verdict.exit_code == 4
    assert any(words in line for line in verdict.differences)


def test_another_protocol_is_not_comparable(compared) -> None:
    """A revision whose worker uses another protocol is named."""
    verdict = compared(protocol=2)
    assert verdict.exit_code == 4
    assert "worker protocol 2" in verdict.differences[0]


def test_a_trial_that_is_gone_is_not_green(compared) -> None:
    """What only the baseline plans is inconclusive; what only the candidate plans is a note."""
    verdict = compared(methods=["dense", "branches"])
    assert judgements(verdict, "trial") == ["inconclusive"]
    assert any("branches" in note for note in verdict.notes)
    assert verdict.exit_code == 3


def test_another_quality_needs_more_seeds(compared) -> None:
    """About ten points less on five seeds, paired: a regression of quality."""
    verdict = compared(quality=70.0, wobble=0.5)
    quality = [row for row in verdict.rows if row.metric == "quality"]
    assert [row.judgement for row in quality] == ["regressed"] * 2
    # seeds 0 to 4 give 80, 81, 82, 83, 84 and 70, 71.5, 72, 73.5, 74: means 82 and 72.2
    assert (quality[0].baseline, quality[0].candidate) == (82.0, 72.2)
    assert quality[0].ratio.num_values == 5
    assert quality[0].ratio.value == pytest.approx(1 + 9.8 / 82)


def test_a_loss_of_quality_counts_if_other_seeds_show_it(compared) -> None:
    """Ten points less on seeds 0 to 4 and none on five others: the others count."""
    verdict = compared({"methods": ["moe"]}, methods=["moe"], quality=70.0, wobble=0.5, bonus=10.0)
    (quality,) = [row for row in verdict.rows if row.metric == "quality"]
    assert (quality.judgement, quality.rerun.num_values, quality.rerun.value) == ("equal", 5, 1.0)
    assert verdict.exit_code == 0


def test_a_candidate_that_fails_with_another_seed_is_regressed(compared) -> None:
    """Its worker dies while seeds are added: a regression with its output, no traceback."""
    verdict = compared({"methods": ["moe"]}, methods=["moe"], quality=70.0, crash_later=True)
    (quality,) = [row for row in verdict.rows if row.metric == "quality"]
    assert quality.judgement == "regressed"
    assert "toy crashed with another seed" in quality.reason
    assert verdict.exit_code == 1


def test_a_baseline_that_fails_with_another_seed_is_not_comparable(compared) -> None:
    """The same in the baseline: its quality is not comparable, and times keep their verdict."""
    verdict = compared({"methods": ["moe"], "crash_later": True}, methods=["moe"], quality=70.0)
    assert (judgements(verdict, "time b64"), judgements(verdict, "quality")) == (["equal"], [])
    assert "a trial of the baseline fails" in verdict.differences[0]
    assert verdict.exit_code == 4


def test_every_change_has_a_probable_cause(compared) -> None:
    """Times, quality, trials: from the row's own reason where there is no number to explain."""
    unsettled = compared(steady=False)
    assert unsettled.rows[0].cause == "unknown: times never settled in the warm-up"
    worse = compared(quality=70.0, wobble=0.5)
    (quality, *_) = [row for row in worse.rows if row.metric == "quality"]
    assert quality.cause == "code: the same counts, but the same seeds train other models"
    dead = compared(crash=True)
    assert dead.rows[0].cause.startswith("code: one revision can, the other cannot")
    gone = compared(methods=["dense"])
    assert gone.rows[0].cause == "unknown: the candidate plans no such trial"
    assert all(row.cause is None for row in compared().rows)


def test_another_unit_of_quality_is_not_comparable(compared) -> None:
    """Percent against nats: exit code 4, and no quality is judged."""
    verdict = compared({"methods": ["moe"]}, methods=["moe"], unit="nat")
    assert verdict.differences == ["digits/transformer/moe/seed0: quality_unit % -> nat"]
    assert (judgements(verdict, "quality"), verdict.exit_code) == ([], 4)


def test_other_libraries_are_not_comparable(compared) -> None:
    """Versions that both sides report must be equal; those that an older revision does not report
    are not compared."""
    reported = {"num_threads": 1, "gpus": [], "versions": {"scipy": "1.17"}}
    older = {"methods": ["moe"], "opened": {"environment": {"num_threads": 1, "gpus": []}}}
    new = {"methods": ["moe"], "opened": {"environment": reported}}
    assert compared(older, **new).exit_code == 0
    other = {**reported, "versions": {"scipy": "1.16"}}
    verdict = compared({"methods": ["moe"], "opened": {"environment": other}}, **new)
    assert verdict.differences == ["version of scipy 1.16 -> 1.17"]
    assert verdict.exit_code == 4


def test_a_candidate_that_fails_once_is_measured_again(compared, tmp_path) -> None:
    """A failure is confirmed by one rerun too: a crash that does not repeat is a note."""
    (tmp_path / "marks").mkdir()
    once = {"marks": str(tmp_path / "marks"), "once": {"crash": True}, "later": {}}
    verdict = compared({"methods": ["moe"]}, methods=["moe"], **once)
    assert (verdict.outcome, judgements(verdict, "time b64")) == ("ok", ["equal"])
    assert any("failed once and succeeded in the rerun" in note for note in verdict.notes)
    assert verdict.canary is not None


def test_the_control_runs_on_a_trial_that_is_supported(compared) -> None:
    """Where the first trial is Unsupported on both sides, the next is the control, with canary."""
    neither = {"skipped": "needs tokens", "unsupported": ["dense"]}
    verdict = compared(neither, **neither)
    assert [control.model for control in verdict.controls] == ["digits/transformer/moe/seed0"]
    assert "digits/transformer/dense/seed0: skipped on both sides (needs tokens)" in verdict.notes
    assert verdict.canary.judgement == "equal"
    assert verdict.outcome == "ok"


def test_without_a_supported_trial_there_is_no_verdict(compared) -> None:
    """Nothing to control and nothing to measure: never green."""
    neither = {"skipped": "needs tokens", "unsupported": ["dense", "moe"]}
    verdict = compared(neither, **neither)
    assert (verdict.rows, verdict.exit_code) == ([], 3)
    assert "the baseline supports none of the trials: no control" in verdict.notes


@pytest.mark.parametrize(
    ("reply", "code", "words"),
    [
        ("hello", 1, "sent an invalid reply to 'open': b'hello"),
        ('{"ok": [1]}', 1, "sent an invalid reply to 'open': b"),
        ('{"ok": {}}', 4, "worker protocol None"),
        ('{"ok": {"protocol": 1}}', 1, "invalid reply to 'open': reply.quality: Field"),
    ],
)
def test_an_invalid_reply_is_named(compared, reply, code, words) -> None:
    """A worker that prints something else, or states no protocol, still ends in a verdict."""
    verdict = compared({"methods": ["moe"]}, methods=["moe"], reply=reply)
    assert verdict.exit_code == code
    lines = [*verdict.differences, *(row.reason or "" for row in verdict.rows)]
    assert any(words in each for each in lines)


@pytest.mark.parametrize(
    ("request_name", "reply", "words"),
    [
        ("warm", {"steady": True}, "invalid reply to 'warm': reply.pass_s: Field required"),
        ("warm", {"pass_s": 0, "steady": True}, "pass_s: Input should be greater than 0"),
        ("block", {}, "invalid reply to 'block': reply.seconds: Field required"),
        ("block", {"seconds": "soon"}, "seconds: Input should be a valid number"),
        ("window", {"joules": 1.0}, "invalid reply to 'window': reply.doubt: Field required"),
    ],
)
def test_a_reply_without_its_field_is_named(compared, request_name, reply, words) -> None:
    """A candidate's worker that leaves a field out, or has text in its place, is regressed with
    that as the reason."""
    gpu = {"kind": "one", "methods": ["moe"]}
    verdict = compared(gpu, **gpu, wrong={request_name: reply})
    assert words in verdict.rows[0].reason
    assert verdict.exit_code == 1


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"gpu": None}, "returned an invalid trial: content.config.gpu: Input should be"),
        ({"timeout_s": "soon"}, "returned an invalid trial: content.config.timeout_s: Input"),
        ({"measure": {"rounds": 3}}, "config.measure.batch_sizes: Field required"),
    ],
)
def test_an_invalid_planned_trial_is_bad_input(compared, settings, words) -> None:
    """The fields of a trial.json that a night reads are checked when it is planned."""
    with pytest.raises(BadInput, match=words):
        compared(settings=settings)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"noise": "loading plugins ..."},
            "planner returned an invalid plan: 'loading plugins",
        ),
        ({"methods": []}, "the plan has no trial"),
        ({"methods": ["moe", "moe"]}, "plans digits/transformer/moe/seed0 more than once"),
    ],
)
def test_an_invalid_plan_is_bad_input(compared, change, words) -> None:
    """Text instead of a plan, an empty one, and trials of the same name are rejected."""
    with pytest.raises(BadInput, match=words):
        compared(**change)


def test_output_of_plugins_does_not_mix_with_the_plan(monkeypatch, capsys) -> None:
    """The plan alone goes to stdout, whatever is printed while plugins are loaded."""

    def chatty(arguments: list[str]) -> Plan:
        print("loading plugins ...")
        return Plan([], ["broken"], set())

    monkeypatch.setattr(planning, "make_plan", chatty)
    assert planning.main([]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out) == {"trials": [], "left_out": ["broken"]}
    assert "loading plugins" in printed.err


def test_the_error_is_that_of_all_looks(compared) -> None:
    """From 20 rounds on there are 4 looks, and each of 4 metrics needs 2 errors: 4 x (4 x 2.5 %)^2,
    however few looks a quiet night took."""
    assert compared().family_wise_error == pytest.approx(4 * (4 * 0.025) ** 2)


def test_the_command_can_be_pasted(toy) -> None:
    """Overrides reach a shell as they were: brackets and blanks are quoted."""
    revision = toy.commit()
    machine = Machine((), toy.locks)
    odd = ["measure.batch_sizes=[1, 64]", "name=$(x)"]
    verdict = compare_revisions(toy.folder, revision, revision, odd, machine=machine)
    (command,) = verdict.commands
    start = ["condbench", "compare", "--rev", revision[:12], revision[:12]]
    assert shlex.split(command) == [*start, *odd]


def test_an_unknown_revision_is_bad_input(toy) -> None:
    """A name that is not in git is reported, with the command that lists revisions."""
    toy.commit()
    with pytest.raises(BadInput, match="'nowhere' is not a revision"):
        toy.night("nowhere", "HEAD")


def test_a_name_is_never_an_option(toy) -> None:
    """A revision that begins with a hyphen is a revision that does not exist."""
    toy.commit()
    with pytest.raises(BadInput, match="is not a revision"):
        toy.night("--help", "HEAD")


def test_a_revision_that_cannot_plan_is_bad_input(compared) -> None:
    """A planner's error comes through with the revision's name."""
    with pytest.raises(BadInput, match=r"cannot plan .*no such method"):
        compared(refuse="no such method")


def test_outside_a_repository_is_bad_input(tmp_path, toy) -> None:
    """Revisions need a repository."""
    toy.commit()
    toy.folder = tmp_path
    with pytest.raises(BadInput, match="git rev-parse failed"):
        toy.night("HEAD", "HEAD")


def test_secrets_do_not_reach_a_revision(toy, monkeypatch) -> None:
    """A revision's processes run without the keys that this one may hold."""
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    toy.commit()
    with checked_out(toy.folder, ["HEAD"], toy.locks) as (revision,):
        assert "secret" not in revision.environment.values()
        assert revision.environment["PYTHONPATH"].startswith(str(revision.folder))
