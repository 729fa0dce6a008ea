"""The workflow files: pinned actions, make targets, one nightly at a time."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yaml"))
MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))
PINNED = re.compile(r"^[\w.-]+/[\w./-]+@[0-9a-f]{40}$")


def read(path: Path) -> dict[str, Any]:
    found = yaml.safe_load(path.read_text())
    # YAML 1.1 reads the key `on` as true.
    return {"on" if key is True else key: value for key, value in found.items()}


def jobs(path: Path) -> Iterator[dict[str, Any]]:
    yield from read(path)["jobs"].values()


def steps(path: Path) -> Iterator[dict[str, Any]]:
    for job in jobs(path):
        yield from job["steps"]


CI, NIGHTLY = (ROOT / ".github" / "workflows" / f"{name}.yaml" for name in ("ci", "nightly"))


def test_these_are_the_workflows() -> None:
    """One for pull requests, one for the nightly."""
    assert WORKFLOWS == [CI, NIGHTLY]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_foreign_actions_are_pinned_by_commit(path) -> None:
    """An action's tag can be moved; its commit cannot."""
    used = [step["uses"] for step in steps(path) if "uses" in step]
    assert used
    assert [name for name in used if not PINNED.match(name)] == []


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_steps_are_make_targets(path) -> None:
    """Every step can be reproduced locally: `make TARGET` and nothing else."""
    commands = [step["run"] for step in steps(path) if "run" in step]
    assert commands
    for command in commands:
        name, target, *_ = command.split()
        assert name == "make"
        assert target in TARGETS
        assert len(command.splitlines()) == 1, command
        assert not re.search(r"[;&|`]|\$\((?!\{)", command), command


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_no_untrusted_value_is_expanded_in_a_command(path) -> None:
    """Inputs, branch names and secrets reach a command through its environment, so that none is
    parsed by the shell. Only the file's own matrix is expanded."""
    for step in steps(path):
        expanded = re.findall(r"\$\{\{(.*?)\}\}", step.get("run", ""), re.DOTALL)
        assert all(re.fullmatch(r" matrix\.\w+ ", each) for each in expanded), step["run"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_every_job_ends(path) -> None:
    """Every job has a time limit and the least rights."""
    assert all("timeout-minutes" in job for job in jobs(path))
    rights = {CI: {"contents": "read"}, NIGHTLY: {"contents": "read", "issues": "write"}}
    assert read(path)["permissions"] == rights[path]
    assert not any("permissions" in job for job in jobs(path))


def test_ci_lints_tests_and_gates_exactly() -> None:
    """Lint, suite on the oldest and newest torch, and the exact gate, on the CPU."""
    commands = " ".join(step.get("run", "") for step in steps(CI))
    assert {"make lint", "make exact", "make suite"} <= set(re.findall(r"make \w+", commands))
    matrix = read(CI)["jobs"]["test"]["strategy"]["matrix"]["include"]
    assert [each["torch"] for each in matrix] == ["oldest", "newest"]
    assert "pull_request" in read(CI)["on"]


def test_the_oldest_torch_is_the_lower_bound() -> None:
    """TORCH=oldest installs the lower bound of pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (bound,) = [name for name in project["dependencies"] if name.startswith("torch>=")]
    (oldest,) = re.findall(r"^TORCH_oldest := torch==([\d.]+)$", MAKEFILE, re.MULTILINE)
    assert oldest.startswith(bound.removeprefix("torch>="))


def test_one_nightly_at_a_time_on_the_gpu_runner() -> None:
    """Scheduled or manual, on the runner labelled gpu, one at a time, never cancelled."""
    night = read(NIGHTLY)
    assert set(night["on"]) == {"schedule", "workflow_dispatch"}
    assert night["jobs"]["night"]["runs-on"] == ["self-hosted", "gpu"]
    assert night["concurrency"] == {"group": "nightly", "cancel-in-progress": False}


def test_a_nightly_leaves_artifacts_summary_and_issue() -> None:
    """Every verdict is uploaded and summarised; an issue is opened only if it is not green."""
    found = {step.get("name", step.get("uses", "")): step for step in steps(NIGHTLY)}
    assert found["summary"]["run"].endswith('>> "$GITHUB_STEP_SUMMARY"')
    (upload,) = [step for name, step in found.items() if name.startswith("actions/upload-artifact")]
    assert upload["with"]["path"] == "results/nights/latest"
    assert "cancelled()" in upload["if"]
    assert found["issue"]["if"] == "${{ failure() }}"


def test_a_nightly_that_times_out_still_reports() -> None:
    """The measuring step times out before its job, so that later steps still run; a step that only
    mirrors cannot turn a green run red."""
    night = read(NIGHTLY)["jobs"]["night"]
    named = {step.get("name"): step for step in night["steps"]}
    assert named["night"]["timeout-minutes"] < night["timeout-minutes"]
    assert named["mirror to W&B"]["continue-on-error"] is True
    assert not any("continue-on-error" in named[name] for name in ("night", "trend", "summary"))


def test_no_token_is_left_where_a_revision_runs() -> None:
    """The checkout keeps no credentials, and the measuring step gets no secret or token."""
    (checkout,) = [
        step for step in steps(NIGHTLY) if step.get("uses", "").startswith("actions/checkout@")
    ]
    assert checkout["with"]["persist-credentials"] is False
    (night,) = [step for step in steps(NIGHTLY) if step.get("name") == "night"]
    assert set(night["env"]) == {"BASELINE", "CANDIDATE"}


def test_a_secret_is_visible_to_one_step_only() -> None:
    """The measuring step has no secret; the W&B key is optional and visible to its step only."""
    for step in steps(NIGHTLY):
        holds = any("secrets." in str(value) for value in step.get("env", {}).values())
        assert holds == (step.get("name") == "mirror to W&B")
    assert "no WANDB_API_KEY" in MAKEFILE
