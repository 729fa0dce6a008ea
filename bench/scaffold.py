"""`condbench new NAME`: creates a method as a package of its own and installs it.

    NAME/pyproject.toml   the entry point through which condbench finds it
    NAME/NAME.py          the method: one dataclass and one layer to edit
    NAME/test_NAME.py     one test: skipping equals masking
    NAME/README.md        the three commands

The template is a complete method: a gate in every feed-forward layer that skips tokens for real.
"""

from __future__ import annotations

import importlib.util
import keyword
import re
import subprocess
import sys
from pathlib import Path
from string import Template

from bench import plugins

# string.Template, not str.format: the templates are code and full of braces. The setuptools bound
# is that of this repository, so that an install without network finds the backend already present.
PYPROJECT = Template("""\
[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"

[project]
name = "$distribution"
version = "0.1.0"
description = "A method for condbench"
dependencies = ["condbench"]

[tool.setuptools]
py-modules = ["$name"]

[tool.pytest.ini_options]
testpaths = ["test_$name.py"]

[project.entry-points."condbench.methods"]
$name = "$name:$cls"
""")

# Its two classes have at most 40 lines together (tests/test_scaffold.py), and the method passes
# `condbench check` unedited: a new contract must be reflected here.
METHOD = Template('''\
"""A gate in every feed-forward layer: tokens that it classifies as easy skip the layer."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count

import torch
from bench.routing import TOKENS, decide, region
from bench.types import Backbone, TaskSpec
from torch import Tensor, nn


@dataclass
class $cls:
    """Skips feed-forward layers for easy tokens; `keep` is the share of tokens that should run."""

    keep: float = 0.5

    def build(self, spec: TaskSpec, backbone: Backbone) -> nn.Module:
        layer = count()
        return backbone.build(
            spec, ffn=lambda dim, hidden: GatedFFN(dim, hidden, self.keep, f"$name.{next(layer)}")
        )


class GatedFFN(nn.Module):
    def __init__(self, dim: int, hidden: int, keep: float, name: str) -> None:
        super().__init__()
        self.gate = nn.Linear(dim, 1)
        self.ffn = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))
        self.keep, self.name, self.cost = keep, name, 4.0 * dim * hidden  # FLOPs of one token

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:  # [B, T, D] -> [B, T, D]
        with region("router"):
            open_ = self.gate(x).squeeze(-1).sigmoid()  # [B, T]
            run = decide(
                self.name, axes=TOKENS, probabilities=open_, run=open_ > 0.5, cost=self.cost
            )
        if self.training:  # masked: the straight-through estimator gives the gate its gradient
            y = self.ffn(x) * (run + open_ - open_.detach())[..., None]
            return y, (open_.mean() - self.keep).square()
        y = torch.zeros_like(x)
        if run.any():  # truly skipped: only the selected tokens are computed
            y[run] = self.ffn(x[run]).to(y.dtype)  # autocast may compute in bfloat16
        return y
''')

# The one test of the template: the contract that is broken first when a layer is edited. It finds
# the method as condbench does, so that classes may be renamed.
TEST = Template('''\
"""Run with: python -m pytest (which `pip install pytest` brings)"""

from __future__ import annotations

import pkgutil
import tomllib
from pathlib import Path

import torch
from bench import routing
from bench.types import Batch, TaskSpec
from methods.backbone.transformer import Transformer


def test_skipping_equals_masking() -> None:
    """Skipping at inference equals the masked training path with the same decisions."""
    project = tomllib.loads(Path(__file__).with_name("pyproject.toml").read_text())["project"]
    (method,) = project["entry-points"]["condbench.methods"].values()
    torch.manual_seed(0)
    spec = TaskSpec("tiny", "tokens", (6,), 3, vocab_size=7)
    model = pkgutil.resolve_name(method)().build(spec, Transformer(dim=8, depth=2, num_heads=2))
    batch = Batch(torch.randint(7, (4, 6)), torch.zeros(4, dtype=torch.long))
    with routing.observe() as seen:
        skipped = model.eval()(batch).logits
    with routing.replay(seen):
        masked = model.train()(batch).logits
    run = seen.decisions[0].run
    assert 0 < run.sum() < run.numel()
    torch.testing.assert_close(skipped, masked)
''')

README = Template("""\
# $name

A method for condbench, installed in editable mode: edit `$name.py` and run.

    condbench check $name                          # the whole contract, in seconds
    pip install pytest && python -m pytest         # skipping equals masking
    condbench run method=$name task=digits         # measured beside the dense model
    condbench run method=$name task=digits method.keep=0.25,0.5,0.75

The contract: `build(spec, backbone)` returns a module that maps a batch to an `Output`. Every
decision of the method goes through `routing.decide`, and the method obeys the value it returns.
""")


class BadName(Exception):
    """An invalid or taken name for a new method; the message gives the reason."""


def write(name: str, folder: Path) -> Path:
    """Write the package into `folder`/`name` and return that folder.

    Raises BadName for a name that is taken or not a Python module name, and OSError.
    """
    check_name(name)  # before the first file is written
    place = folder / name
    # my_gate -> MyGate
    cls = "".join(word.capitalize() for word in name.split("_"))
    # Distribution names use dashes; pip treats both spellings as equal.
    words = {"name": name, "cls": cls, "distribution": name.replace("_", "-")}
    files = {
        "pyproject.toml": PYPROJECT,
        f"{name}.py": METHOD,
        f"test_{name}.py": TEST,
        "README.md": README,
    }
    try:
        place.mkdir(parents=True)  # fails if it exists: nothing is ever overwritten
    except FileExistsError as error:
        raise BadName(f"{place} exists already; remove it or choose another name") from error
    for file, template in files.items():
        (place / file).write_text(template.substitute(words), encoding="utf-8")
    return place


def check_name(name: str) -> None:
    """Raise BadName unless `name` is a valid module name and a free choice of method=."""
    # Lower case, as on file systems that ignore case My_Gate and my_gate are one file; ASCII, as
    # the names of distributions and entry points are, which pip would refuse with a page of text.
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or name.endswith("_") or keyword.iskeyword(name):
        raise BadName(
            f"{name!r} is not a module name: begin with a letter, use a to z, digits and _"
        )
    if name in plugins.choices("method"):
        raise BadName(f"method {name!r} exists already; condbench list shows all")
    # The new module would shadow it for every program in this environment.
    if importlib.util.find_spec(name) is not None:
        raise BadName(f"{name!r} would shadow an installed package; choose another name")


def install(place: Path) -> str:
    """Install the package in editable mode; returns pip's error message, "" on success."""
    # Without network: condbench and setuptools, its only requirements, are installed already.
    offline = ("--no-index", "--no-deps", "--no-build-isolation", "--quiet")
    command = [sys.executable, "-m", "pip", "install", *offline, "--editable", str(place)]
    done = subprocess.run(
        command, capture_output=True, encoding="utf-8", errors="replace", check=False
    )
    return "" if done.returncode == 0 else done.stderr.strip() or f"pip: {done.returncode}"
