"""Real revisions in real processes: a slower one is caught, an equal one is not, FLOPs are."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from bench.launch.devices import Machine
from bench.regress.cells import write_trial
from bench.regress.checkouts.planned_trials import plan_trials
from bench.regress.checkouts.worktrees import checked_out
from bench.regress.markdown import body
from bench.regress.revisions.compare import compare_revisions
from bench.regress.revisions.paired_rounds import open_both
from bench.regress.revisions.worker_process import WorkerProcess
from bench.regress.verdict import Verdict

ROOT = Path(__file__).parents[3]
TINY = (
    *("task=digits", "method=dense", "train.steps=1", "gpu.threads=1"),
    # The profile's rounds, which may be extended: a number of rounds that is given is kept.
    *("measure=standard", "measure.num_inputs=64", "measure.batch_sizes=[64]"),
    *("measure.block_ms=100", "measure.warmup_s=0.5", "backbone.depth=2"),
)
# Appended to the backbone: every forward pass of a model does extra products first.
SLOWER = """

def _slower(model, _):
    square = torch.ones(256, 256)
    for _ in range({number}):
        square @ square


_build = Transformer.build


def _build_slower(self, *arguments, **settings):
    model = _build(self, *arguments, **settings)
    model.register_forward_pre_hook(_slower)
    return model


Transformer.build = _build_slower
"""


def git(repository: Path, *arguments: str) -> str:
    names = ("-c", "user.name=tests", "-c", "user.email=tests@example.org")
    command = ["git", "-C", str(repository), *names, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A clone of this repository, to commit revisions to."""
    made = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", "--shared", str(ROOT), str(made)], check=True)
    return made


def slow_down(repository: Path, number: int) -> None:
    """Commit a revision whose models do `number` extra products of 256 x 256 a pass."""
    backbone = repository / "methods" / "backbone" / "transformer.py"
    text = backbone.read_text() + SLOWER.format(number=number)
    if "\nimport torch\n" not in text:
        text = text.replace(
            "from __future__ import annotations\n",
            "from __future__ import annotations\n\nimport torch\n",
            1,
        )
    backbone.write_text(text)
    git(repository, "commit", "-q", "-am", "Slower")


def verdict_on(repository: Path, baseline: str, candidate: str) -> Verdict:
    """The verdict, with device locks of the test's own; a void night is tried up to three times."""
    locks = repository.parent / "locks"
    locks.mkdir()
    for _ in range(3):
        verdict = compare_revisions(
            repository, baseline, candidate, TINY, machine=Machine((), locks)
        )
        if verdict.outcome != "void":
            break
    return verdict


@pytest.mark.soak
def test_a_slower_revision_is_caught_and_confirmed(repository) -> None:
    """Extra matmuls of about 8 % of a pass end in regressed, exit code 1, code as the cause."""
    slow_down(repository, number=5)
    verdict = verdict_on(repository, "HEAD~1", "HEAD")
    (time,) = [row for row in verdict.rows if row.metric == "time b64"]
    assert verdict.outcome == "regressed", (verdict.controls, verdict.rows)
    assert (verdict.exit_code, time.judgement) == (1, "regressed")
    assert time.rerun is not None
    assert time.rerun.low > 1.02
    assert time.cause.startswith("code: the work changed as well")
    (flops,) = [row for row in verdict.rows if row.metric == "executed FLOPs"]
    assert flops.judgement == "regressed"
    assert git(repository, "worktree", "list").count("\n") == 0  # only the clone itself is left


@pytest.mark.soak
def test_an_identical_revision_is_not_caught(repository) -> None:
    """A commit that changes no code is never red: exit code 0, or 3 on a machine that is too busy,
    and then the body gives the reason. Counts and quality are equal on any machine."""
    git(repository, "commit", "-q", "--allow-empty", "-m", "Nothing")
    verdict = verdict_on(repository, "HEAD~1", "HEAD")
    text = body(verdict)
    assert verdict.exit_code in (0, 3), text
    assert verdict.rows_with("regressed") == []
    assert (verdict.differences, verdict.changes) == ([], [])
    assert re.search(r"- took [\d.]+ min", text)
    controls = [*verdict.controls, *([verdict.canary] if verdict.canary else [])]
    assert controls
    if verdict.rows:
        assert [row.judgement for row in verdict.rows if row.metric == "quality"] == ["equal"]
    if verdict.outcome == "ok":
        assert text.startswith("## no regression\n")
    elif verdict.outcome == "void":
        assert any(row.judgement != "equal" for row in controls)
        assert "### Controls: the same code on both sides" in text
    else:
        unsure = verdict.rows_with("inconclusive")
        assert unsure
        assert all(row.cause.startswith(("noise: ", "unknown: ")) for row in unsure)
        assert "Probable cause:" in text


@pytest.mark.soak
def test_an_identical_revision_counts_and_trains_the_same(repository, tmp_path) -> None:
    """However busy the machine: both worktrees plan the same trial, execute the same FLOPs, hold
    the same bytes and train to the same quality."""
    git(repository, "commit", "-q", "--allow-empty", "-m", "Nothing")
    with checked_out(repository, ["HEAD~1", "HEAD"], tmp_path) as revisions, ExitStack() as stack:
        (old,), (new,) = (plan_trials(each, TINY, tmp_path).values() for each in revisions)
        assert (old["identity"], old["key"]) == (new["identity"], new["key"])
        workers = [stack.enter_context(WorkerProcess(each, {}, 600.0)) for each in revisions]
        folders = [write_trial(tmp_path / name, trial) for name, trial in (("a", old), ("b", new))]
        first, second = open_both((workers[0], workers[1]), (str(folders[0]), str(folders[1])))
    assert {"model/params", "infer/flops_per_sample"} <= first["counts"].keys()
    assert first == second


def exact(repository: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bench.cli", "compare", "--exact", *arguments]
    return subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=300)


@pytest.mark.soak
def test_a_change_of_flops_is_caught_by_the_exact_gate(repository) -> None:
    """One product more per pass: exit code 1, the count before and after; --update accepts it."""
    chosen = ("golden", "method=dense", "task=digits")
    shutil.rmtree(repository / "results" / "baseline", ignore_errors=True)
    assert exact(repository, *chosen, "--update").returncode == 0
    same = exact(repository, *chosen)
    assert (same.returncode, "dense: equal" in same.stdout) == (0, True), same.stdout + same.stderr
    slow_down(repository, number=1)
    changed = exact(repository, *chosen)
    assert changed.returncode == 1
    assert "counts.flops_b4" in changed.stdout
    assert "counts.routes" not in changed.stdout
    updated = exact(repository, *chosen, "--update")
    assert (updated.returncode, "counts.flops_b4" in updated.stdout) == (0, True)
    assert exact(repository, *chosen).returncode == 0
