"""A toy project with the two modules that a night runs, so that a whole night takes seconds."""

from __future__ import annotations

import json
import shutil
import subprocess
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.launch.devices import Machine
from bench.regress.checkouts.worktrees import INTERFACES, Interface
from bench.regress.revisions.compare import NO_LIMITS, compare_revisions
from bench.regress.verdict import Verdict

PYPROJECT = """
[project]
name = "condbench"
dependencies = ["torch"]
[project.entry-points."condbench.methods"]
dense = "methods.controls.dense:Dense"
"""

# Plans the trials of toy.json; `config` stands for all that must be equal.
PLANNING = """
import json, sys, time
from importlib.metadata import version
from pathlib import Path
toy = json.loads(Path("toy.json").read_text())
if "plan_flood" in toy:
    while True:
        getattr(sys, toy["plan_flood"]).write("x" * 65536)
time.sleep(toy.get("plan_sleep_s", 0))
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
                     "versions": {name: version(name) for name in toy.get("versions_of", [])}
                     or {"torch": toy["torch"]},
                     "config": {"method": toy["config"]}},
        "dense": {"checkpoint": "checkpoints/a.pt"},
    })
print(json.dumps({"trials": trials, "left_out": []}))
"""

# Replies as the worker does: blocks take toy.json's seconds with 0.5 % of noise, windows joules.
# With `marks`, a folder, `once` holds for the first worker that trains and `later` for the others.
WORKER = """
import json, os, random, sys, time
from pathlib import Path
toy = json.loads(Path("toy.json").read_text())
vary = random.Random(os.getpid())
def mark():
    number = len(list(Path(toy["marks"]).iterdir()))
    Path(toy["marks"], str(number)).touch()
    toy.update(toy["later"] if number else toy["once"])
    del toy["marks"]
def reply_to(request):
    do = request["do"]
    folder = request.get("folder")
    if folder and "marks" in toy:
        mark()
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
    if do == "canary":
        return {"num_threads": 1}
    if do == "warm":
        return {"pass_s": 0.001, "steady": toy.get("steady", True)}
    if do == "block":
        pass_s = 0.001 if request["work"] == "canary" else toy["pass_s"]
        spread = toy.get("spread", 0.005)
        if request["work"] == "canary":
            spread = toy.get("canary_spread", spread)
        return {"seconds": request["passes"] * pass_s * max(0.1, vary.gauss(1, spread))}
    if do == "window" and "refused" in toy:
        return {"refused": toy["refused"]}
    if do == "window":
        return {"joules": toy["joules"] * vary.gauss(1, toy.get("joule_spread", 0.002)),
                "doubt": toy.get("doubt")}
    if toy.get("crash_later"):
        sys.exit("toy crashed with another seed")
    return {"quality": quality}
if "chatter" in toy:
    sys.stderr.write(toy["chatter"] * 10000)
for line in sys.stdin:
    while "flood" in toy:
        sys.stdout.write(toy["flood"] * 1000)
    print(toy.get("reply") or json.dumps({"ok": reply_to(json.loads(line))}), flush=True)
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
        self.progress: list[str] = []
        self.locks.mkdir()
        folder.mkdir()
        (folder / "conf").mkdir()
        for name, text in (("pyproject.toml", PYPROJECT), ("constraints.txt", "torch==1\n")):
            (folder / name).write_text(text)
        self.provide(INTERFACES[0])
        self.git("init", "-q")

    def provide(self, interface: Interface) -> None:
        """Write the two modules that a night runs, under these names and no others."""
        shutil.rmtree(self.folder / "bench", ignore_errors=True)
        for module, text in ((interface.planning, PLANNING), (interface.worker, WORKER)):
            path = self.folder.joinpath(*module.split(".")).with_suffix(".py")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(text))
        (self.folder / "bench" / "__init__.py").touch()

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
        self,
        baseline: str,
        candidate: str,
        *overrides: str,
        limits_s: Mapping[str, float] = NO_LIMITS,
    ) -> Verdict:
        return compare_revisions(
            self.folder,
            baseline,
            candidate,
            overrides,
            machine=Machine(("GPU-toy",), self.locks),
            report_progress=self.progress.append,
            limits_s=limits_s,
        )
