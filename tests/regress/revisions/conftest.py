"""A toy project with the nightly's two doors, so that a whole night takes seconds."""

from __future__ import annotations

import json
import subprocess
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from bench.launch.devices import Machine
from bench.regress.revisions.night import NO_LIMITS, compare_revisions
from bench.regress.verdict import Verdict

PYPROJECT = """
[project]
name = "condbench"
dependencies = ["torch"]
[project.entry-points."condbench.methods"]
dense = "methods.controls.dense:Dense"
"""

# Plans what toy.json says; `config` stands for all that must be equal.
PLANNING = """
import json, sys
from importlib.metadata import version
from pathlib import Path
toy = json.loads(Path("toy.json").read_text())
if "refuse" in toy:
    sys.exit(toy["refuse"])
trials = []
print(toy.get("noise", ""), end="", flush=True)
for method in toy["methods"]:
    measure = {"rounds": 20, "batch_sizes": [64], "block_ms": 1.0, "energy_window_s": 5.0}
    config = {"seed": 0, "timeout_s": toy["timeout_s"], "measure": measure,
              "gpu": {"kind": toy["kind"], "device": None}}
    config |= toy.get("settings", {})
    trials.append({
        "labels": {"experiment": "e", "hardware": "cpu-toy", "task": "digits", "method": method,
                   "backbone": "transformer", "variant": "", "seed": 0},
        "config": config,
        "identity": {"hardware": "cpu-toy", "data": "d",
                     "versions": {name: version(name) for name in toy.get("ask_versions", [])}
                     or {"torch": toy["torch"]},
                     "config": {"method": toy["config"]}},
        "dense": {"checkpoint": "checkpoints/a.pt"},
    })
print(json.dumps({"trials": trials, "left_out": []}))
"""

# Answers as the worker does: blocks take toy.json's seconds with 0.5 % of noise, windows joules.
# With `marks`, a folder, `once` holds for the candidate's first worker and `later` for its others.
WORKER = """
import json, os, random, sys, time
from pathlib import Path
toy = json.loads(Path("toy.json").read_text())
vary = random.Random(os.getpid())
if "marks" in toy:
    number = len(list(Path(toy["marks"]).iterdir()))
    Path(toy["marks"], str(number)).touch()
    toy |= toy["later"] if number else toy["once"]
def answer(request):
    do = request["do"]
    folder = request.get("folder")
    if folder:
        trial = json.loads(Path(folder, "trial.json").read_text())
        seed, method = trial["config"]["seed"], trial["labels"]["method"]
        bonus = toy.get("bonus", 0) if seed > 4 else 0
        quality = toy["quality"] + seed + (bonus or toy.get("wobble", 0) * (seed % 2))
    if do == "open":
        time.sleep(toy.get("sleep_s", 0))
        if toy.get("crash") or method in toy.get("crash_methods", []):
            sys.exit("toy crashed")
        return {"protocol": toy.get("protocol", 1), "quality": quality,
                "quality_unit": toy.get("unit", "%"),
                "direction": "higher", "counts": {"infer/flops_per_sample": toy["flops"]},
                "environment": {"num_threads": 1, "gpus": []},
                **({"skipped": toy["skipped"]} if method in toy.get("unsupported", []) else {}),
                **toy.get("opened", {})}
    if do in toy.get("wrong", {}):
        return toy["wrong"][do]
    if do == "warm":
        return {"pass_s": 0.001, "steady": toy.get("steady", True)}
    if do == "block":
        pass_s = 0.001 if request["work"] == "canary" else toy["pass_s"]
        spread = toy.get("spread", 0.005)
        return {"seconds": request["passes"] * pass_s * max(0.1, vary.gauss(1, spread))}
    if do == "window" and "refused" in toy:
        return {"refused": toy["refused"]}
    if do == "window":
        return {"joules": toy["joules"] * vary.gauss(1, toy.get("joule_spread", 0.002)),
                "doubt": toy.get("doubt")}
    if toy.get("crash_later"):
        sys.exit("toy crashed with another seed")
    return {"quality": quality}
for line in sys.stdin:
    print(toy.get("answer") or json.dumps({"ok": answer(json.loads(line))}), flush=True)
"""

TOY = {
    "methods": ["dense", "moe"],
    "kind": "cpu",
    "pass_s": 0.1,
    "joules": 50.0,
    "quality": 80.0,
    "flops": 1000,
    "torch": "2.13.0",
    "config": {"num_experts": 8},
    "timeout_s": 20.0,
}


class ToyProject:
    """A repository of toy revisions; `commit(pass_s=0.11)` adds one, `night()` compares two."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.locks = folder, folder.parent / "locks"
        self.said: list[str] = []
        self.locks.mkdir()
        (folder / "bench" / "nightly").mkdir(parents=True)
        (folder / "conf").mkdir()
        for name, text in (("pyproject.toml", PYPROJECT), ("constraints.txt", "torch==1\n")):
            (folder / name).write_text(text)
        for name, text in (("__init__", ""), ("planning", PLANNING), ("worker", WORKER)):
            (folder / "bench" / "nightly" / f"{name}.py").write_text(textwrap.dedent(text))
        (folder / "bench" / "__init__.py").write_text("")
        self.git("init", "-q")

    def git(self, *arguments: str) -> str:
        names = ("-c", "user.name=tests", "-c", "user.email=tests@example.org")
        command = ["git", "-C", str(self.folder), *names, *arguments]
        run = subprocess.run(command, check=True, capture_output=True, text=True)
        return run.stdout.strip()

    def commit(self, **changes: Any) -> str:
        (self.folder / "toy.json").write_text(json.dumps({**TOY, **changes}))
        self.git("add", "-A")
        self.git("commit", "-q", "--allow-empty", "-m", "toy")
        return self.git("rev-parse", "HEAD")

    def night(
        self, baseline: str, candidate: str, limits_s: Mapping[str, float] = NO_LIMITS
    ) -> Verdict:
        machine = Machine(("GPU-toy",), self.locks)
        sides = (self.folder, baseline, candidate, [])
        return compare_revisions(*sides, machine=machine, say=self.said.append, limits_s=limits_s)


@pytest.fixture
def toy(tmp_path: Path) -> ToyProject:
    """A toy project without a revision yet."""
    (tmp_path / "toy").mkdir()
    return ToyProject(tmp_path / "toy")


@pytest.fixture
def compared(toy: ToyProject) -> Callable[..., Verdict]:
    """compared(pass_s=0.11): the verdict on that revision against the plain one."""

    def compare(old: dict[str, Any] | None = None, **new: Any) -> Verdict:
        return toy.night(toy.commit(**(old or {})), toy.commit(**new))

    return compare
