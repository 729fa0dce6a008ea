"""Floors: what must not be in memory after a room is imported, found in fresh processes.

`make lint` checks who imports whom in the source ([tool.importlinter] in pyproject.toml); this is
what really is loaded, packages of packages included. Every room needs a line in the table.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

import bench

ROOT = Path(bench.__file__).parent.parent

LIGHTNING = {"pytorch_lightning", "lightning"}
HYDRA = {"hydra", "omegaconf"}
HEAVY = {"torch", "pandas", "matplotlib", "fvcore"}
PLUGINS = {"methods", "bench.tasks"}

WORDS = HEAVY | LIGHTNING | HYDRA | PLUGINS | {"wandb", "pynvml"}
READING = {"torch", "wandb", "pynvml"} | LIGHTNING | HYDRA | PLUGINS
METERS = LIGHTNING | HYDRA | PLUGINS | {"wandb", "pandas", "matplotlib"}
TRAINING = HYDRA | PLUGINS | {"wandb", "pandas"}  # Lightning brings matplotlib
DOOR = HEAVY | LIGHTNING | HYDRA | PLUGINS | {"wandb", "pynvml"}
PLAN = DOOR - HYDRA
NIGHT = READING - HYDRA
SIDE = LIGHTNING | HYDRA | {"wandb", "pynvml", "fvcore", "bench.meters", "bench.records"}

# The longest name that a module's name begins with decides.
FLOORS = {
    "bench": WORDS,
    "bench.types": WORDS,
    "bench.values": WORDS,
    "bench.routing": WORDS,
    "bench.config": WORDS,
    "bench.records": WORDS,
    "bench.papers": WORDS,
    "bench.statistics": METERS,
    "bench.report": READING,
    "bench.regress": READING,
    "bench.regress.checkouts": NIGHT,
    "bench.regress.revisions.worker": TRAINING,
    "bench.regress.golden": NIGHT,
    "bench.regress.golden.trial": TRAINING,
    "bench.publish": READING,
    "bench.meters": METERS,
    "bench.measure": METERS,
    "bench.ranks": METERS,
    "bench.trial": TRAINING,
    "bench.check": TRAINING,
    "bench.selftest": METERS,
    "bench.plugins": DOOR,
    "bench.cli": DOOR,
    "bench.listing": DOOR,
    "bench.scaffold": DOOR,
    "bench.run": PLAN,
    "bench.launch": DOOR,
    "bench.plan": PLAN,
    "bench.plan.identity": DOOR,
    "bench.plan.planned": DOOR,
    "bench.plan.staleness": DOOR,
    "bench.tasks": SIDE,
    "methods": SIDE,
}

# One fork per floor imports its modules in turn and prints who brought in what is banned there.
PROBE = """
import importlib, json, os, sys
preload, floors = json.loads(sys.argv[1])
for name in preload:
    importlib.import_module(name)
for banned, modules in floors:
    sys.stdout.flush()
    if os.fork() == 0:
        for module in modules:
            before = set(sys.modules)
            importlib.import_module(module)
            new = set(sys.modules) - before
            print(json.dumps([module, [name for name in banned if name in new]]), flush=True)
        os._exit(0)
    os.wait()
"""


def sources(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def modules() -> list[str]:
    """Every module of the house, by its file: nothing is imported here."""
    paths = [*sources("bench"), *sources("methods")]
    dotted = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in paths]
    names = [name.removesuffix(".__init__") for name in dotted]
    return [name for name in names if not name.endswith("__main__")]


def room(module: str) -> str:
    """The line of the table that decides for `module`; "" without one."""
    rooms = [known for known in FLOORS if module == known or module.startswith(f"{known}.")]
    return max(
        (known for known in rooms if known != "bench" or module == "bench"), default="", key=len
    )


def probe(preload: list[str], floors: list[tuple[list[str], list[str]]]) -> dict[str, list[str]]:
    """What each module brings in that its floor bans; `floors` pairs banned names and modules."""
    command = [sys.executable, "-W", "ignore", "-c", PROBE, json.dumps([preload, floors])]
    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300)
    found = dict(json.loads(line) for line in run.stdout.splitlines())
    assert set(found) == {name for _, names in floors for name in names}, run.stderr
    return found


def test_every_module_stands_on_a_floor() -> None:
    """A new room gets a line in the table."""
    assert [module for module in modules() if not room(module)] == []


def test_every_room_keeps_its_floor() -> None:
    """Importing a module loads nothing that its floor bans, in a process of its floor alone."""
    by_floor: dict[frozenset[str], list[str]] = defaultdict(list)
    for name in modules():
        by_floor[frozenset(FLOORS[room(name)])].append(name)
    pairs = [(sorted(banned), names) for banned, names in by_floor.items()]
    light = probe([], [pair for pair in pairs if "torch" in pair[0]])
    heavy = probe(["torch"], [pair for pair in pairs if "torch" not in pair[0]])
    assert {name: names for name, names in (light | heavy).items() if names} == {}


def test_the_probe_sees_a_broken_floor() -> None:
    """The check notices what it looks for: reading records does load pydantic."""
    floors = [(["pydantic", "torch"], ["bench.types", "bench.records.record"])]
    assert probe([], floors) == {"bench.types": [], "bench.records.record": ["pydantic"]}


START = """
import sys
from bench.cli import main
try:
    main(sys.argv[1:])
except SystemExit:
    pass
names = ("bench.report", "torch", "hydra", "pytorch_lightning", "wandb")
print("loaded:", *(name for name in names if name in sys.modules))
"""


@pytest.mark.parametrize(
    ("arguments", "loaded"),
    [
        (["--help"], "loaded:"),
        (["report", "--help"], "loaded:"),
        (["report", "."], "loaded: bench.report"),
    ],
)
def test_commands_start_without_torch(tmp_path, arguments, loaded) -> None:
    """--help and report answer without loading torch, hydra, lightning or wandb."""
    command = [sys.executable, "-c", START, *arguments]
    run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert run.stdout.splitlines()[-1] == loaded, run.stderr
