"""Make targets run by make itself: `gh`, `condbench` and python record how they are called."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
# Stands for a command: records its arguments and a body on stdin; variables decide its output.
RECORDER = f"""#!{sys.executable} -S
import json, os, sys
name, arguments = os.path.basename(sys.argv[0]), sys.argv[1:]
call = {{"name": name, "arguments": arguments}}
if arguments[-2:] == ["--body-file", "-"]:
    call["stdin"] = sys.stdin.read()
with open(os.environ["CALLS"], "a") as file:
    file.write(json.dumps(call) + "\\n")
if arguments[:2] == ["issue", "list"]:
    print(os.environ.get("OPEN_ISSUE", ""))
sys.exit(int(os.environ.get("FAILS_WITH", "0")))
"""
EVIL = "$(touch pwned) `touch pwned` '; touch pwned #\" $(shell touch pwned) %s \\n $$HOME"


class Folder:
    """A checkout with the real Makefile, whose commands are recorders."""

    def __init__(self, place: Path) -> None:
        self.place, self.night = place, place / "results" / "nights" / "latest"
        self.log = place / "calls.jsonl"
        shutil.copy(ROOT / "Makefile", place)
        for name in ("pyproject.toml", "constraints.txt"):
            (place / name).touch()
            os.utime(place / name, (0, 0))
        for name in ("gh", ".venv/bin/condbench", ".venv/bin/python"):
            path = place / "path" / name if name == "gh" else place / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(RECORDER)
            path.chmod(0o755)
        for name in (".run", ".dev"):
            (place / ".venv" / name).touch()
        self.body("## no regression\n")

    def body(self, text: str) -> None:
        self.night.mkdir(parents=True, exist_ok=True)
        (self.night / "body.md").write_text(text)

    def make(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        keep = {"HOME": str(self.place), "PATH": f"{self.place / 'path'}:/usr/bin:/bin"}
        return subprocess.run(
            ["make", *arguments],
            cwd=self.place,
            env={**keep, "CALLS": str(self.log), **variables},
            capture_output=True,
            text=True,
        )

    def calls(self) -> list[dict[str, Any]]:
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [json.loads(line) for line in lines]

    def arguments(self) -> list[list[str]]:
        return [call["arguments"] for call in self.calls()]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


LIST = "issue list --label nightly --state open --limit 1 --json number --jq"


def test_the_first_bad_night_opens_an_issue(folder) -> None:
    """None is open: label, then one issue whose body is the night's, byte for byte."""
    folder.body("## regressed\n\n| a | b |\n")
    assert folder.make("nightly-issue").returncode == 0
    listed, label, opened = folder.calls()
    assert listed["arguments"][:-1] == LIST.split()
    assert label["arguments"] == ["label", "create", "nightly", "--force"]
    title = ["--title", "The nightly is not green"]
    start = ["issue", "create", "--label", "nightly"]
    assert opened["arguments"] == [*start, *title, "--body-file", "-"]
    assert opened["stdin"] == "## regressed\n\n| a | b |\n"


def test_later_bad_nights_comment_on_it(folder) -> None:
    """One is open: a comment there, and no second issue."""
    assert folder.make("nightly-issue", OPEN_ISSUE="17").returncode == 0
    _, comment = folder.calls()
    assert comment["arguments"] == ["issue", "comment", "17", "--body-file", "-"]
    assert comment["stdin"] == "## no regression\n"


@pytest.mark.parametrize("issue", ["", "17"])
def test_a_body_is_never_evaluated(folder, issue) -> None:
    """What a shell or make would run stays text in the body."""
    folder.body(EVIL)
    assert folder.make("nightly-issue", OPEN_ISSUE=issue).returncode == 0
    assert folder.calls()[-1]["stdin"] == EVIL
    assert not list(folder.place.rglob("pwned"))


def test_a_night_without_a_verdict_is_reported_too(folder) -> None:
    """Even without an environment, as after a failed installation, the issue is opened."""
    shutil.rmtree(folder.place / ".venv")
    shutil.rmtree(folder.night)
    assert folder.make("nightly-issue").returncode == 0
    text = "The nightly run ended without a verdict; see the log of the job.\n"
    assert folder.calls()[-1]["stdin"] == text
    assert folder.make("nightly-summary").stdout == text


def test_a_long_body_fits_into_an_issue(folder) -> None:
    """GitHub takes 65,536 characters: the start of a longer body is sent."""
    folder.body("x" * 70_000)
    assert folder.make("nightly-issue").returncode == 0
    assert folder.calls()[-1]["stdin"] == "x" * 60_000


def test_without_a_reply_from_github_nothing_is_opened(folder) -> None:
    """A failing `gh issue list` fails the step, rather than opening an issue a night."""
    assert folder.make("nightly-issue", FAILS_WITH="4").returncode != 0
    assert len(folder.calls()) == 1


def test_the_summary_is_the_body(folder) -> None:
    """`make nightly-summary` prints the night's Markdown and nothing else."""
    folder.body(EVIL)
    assert folder.make("nightly-summary").stdout == EVIL


def test_a_night_gets_its_revisions_unchanged(folder) -> None:
    """Revision names and paths are data: nothing in them reaches a shell or make."""
    made = folder.make(
        "nightly", "GPU=one", BASELINE=EVIL, CANDIDATE="a b", HISTORY="/h h", SECRET="$(x)"
    )
    assert made.returncode == 0, made.stderr
    (given,) = folder.arguments()
    names = [f"baseline={EVIL}", "candidate=a b", "history=/h h"]
    assert given == ["nightly", *names, "out=results/nights/latest", "gpu=one"]
    assert not list(folder.place.rglob("pwned"))


def test_a_night_has_defaults_and_fails_as_its_verdict_does(folder) -> None:
    """The pinned tag against HEAD on the CPU; an old verdict is gone; not green fails make."""
    made = folder.make("nightly", FAILS_WITH="3")
    assert made.returncode != 0
    assert "Error 3" in made.stderr
    assert not folder.night.exists()
    (given,) = folder.arguments()
    assert given[1:4] == ["baseline=nightly-baseline", "candidate=HEAD", "history="]
    assert given[-1] == "gpu=cpu"


@pytest.mark.parametrize(
    ("variables", "place"),
    [
        ({}, "{home}/.local/share/condbench/history"),
        ({"XDG_DATA_HOME": "/data"}, "/data/condbench/history"),
        ({"HISTORY": "/h h"}, "/h h"),
    ],
)
def test_the_trend_is_of_the_nights_history(folder, variables, place) -> None:
    """The same default place as the night's own, or HISTORY."""
    assert folder.make("trend", **variables).returncode == 0
    path = place.format(home=folder.place)
    assert folder.arguments() == [["trend", path, "--out", "results/nights/latest/trend"]]


def test_without_a_key_nothing_is_mirrored(folder) -> None:
    """No WANDB_API_KEY: a sentence, success, and W&B is not called."""
    made = folder.make("nightly-wandb")
    assert (made.returncode, made.stdout) == (0, "no WANDB_API_KEY: not mirrored\n")
    assert folder.calls() == []


def test_with_a_key_the_night_is_published(folder) -> None:
    """The key stays in the environment: it is in no command and not printed."""
    made = folder.make("nightly-wandb", WANDB_API_KEY="k" * 40)
    assert folder.arguments() == [["publish", "results/nights/latest", "--mode", "online"]]
    assert "kkkk" not in made.stdout + made.stderr


def test_a_mirror_that_is_off_stays_off(folder) -> None:
    """WANDB_MODE=disabled, wandb's own switch: nothing is sent although there is a key."""
    made = folder.make("nightly-wandb", WANDB_API_KEY="k" * 40, WANDB_MODE="disabled")
    assert (made.returncode, made.stdout) == (0, "WANDB_MODE=disabled: not mirrored\n")
    assert folder.calls() == []


@pytest.mark.soak
def test_a_night_is_really_published(folder) -> None:
    """The whole path with the real condbench and wandb, offline: one run, beside the verdict."""
    from bench.regress.compare import write_verdict
    from bench.regress.verdict import Verdict

    write_verdict(Verdict("A", "B", "cpu"), folder.night)
    real = f'#!/bin/sh\nexec {sys.executable} -m bench.cli "$@"\n'
    (folder.place / ".venv" / "bin" / "condbench").write_text(real)
    found = {"PYTHONPATH": str(ROOT), "WANDB_MODE": "offline", "WANDB_API_KEY": "k" * 40}
    made = folder.make("nightly-wandb", **found)
    assert made.returncode == 0, made.stdout + made.stderr
    assert "sent to project" in made.stdout
    (run,) = folder.place.rglob("*.wandb")
    assert folder.night in run.parents


PYTEST = ["-m", "pytest", "-m", "not soak"]


@pytest.mark.parametrize(
    ("torch", "installs"),
    [("oldest", ["torch==2.11.0"]), ("newest", ["--upgrade", "torch"]), (None, None)],
)
def test_the_suite_runs_on_either_end_of_torch(folder, torch, installs) -> None:
    """TORCH=oldest|newest installs that end of what is supported first; without it nothing."""
    made = folder.make("suite", *([f"TORCH={torch}"] if torch else []))
    assert made.returncode == 0, made.stderr
    *before, suite = folder.arguments()
    pip = ["-m", "pip", "--disable-pip-version-check", "--quiet", "install"]
    assert before == ([[*pip, *installs]] if installs else [])
    assert suite[:4] == PYTEST
    dry = folder.make("-n", "suite", *([f"TORCH={torch}"] if torch else [])).stdout.splitlines()
    assert len(dry) == 1 + bool(torch)


def test_another_torch_is_refused(folder) -> None:
    """Another word is an error, not the pinned torch under another name."""
    made = folder.make("suite", "TORCH=latest")
    assert made.returncode != 0
    assert "TORCH is oldest or newest" in made.stderr
    assert folder.calls() == []


@pytest.mark.parametrize(("code", "ends"), [("0", ""), ("1", "Error 1"), ("130", "Error 130")])
def test_the_quickstart_keeps_its_hint_and_its_exit_code(folder, code, ends) -> None:
    """After a failed trial the hint is still printed, and make still fails with its exit code."""
    ran = folder.make("run", FAILS_WITH=code)
    assert ran.stdout == "Next: source .venv/bin/activate && condbench --help\n"
    assert ends in ran.stderr
    assert (ran.returncode == 0) == (code == "0")
