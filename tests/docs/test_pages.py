"""The pages: links lead somewhere, names exist in the code, commands are accepted."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.cli.arguments import parser
from bench.plan.matrix import make_plan
from tests.docs.pages import ROOT, anchors, commands, links, name, pages, prose

# The history says what was; its names are those of their time.
HISTORY = ("CHANGELOG.md", "docs/explanation/decisions.md")
DESCRIBED = [page for page in pages() if name(page) not in HISTORY]
CODE = re.compile(r"`([^`\n]+)`")
DOTTED = re.compile(r"(?<![\w.])(?:bench|methods|tests)(?:\.\w+)+")
PATH = re.compile(r"(?:\.ci|\.github|bench|conf|docs|methods|results|tests)/[\w./-]+")
TARGETS = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
# What a make variable or a placeholder in capitals stands for, so that the line can be parsed.
PLACEHOLDERS = {"COMMIT": "HEAD", "URL": "https://example.org/condbench.git"}


@pytest.mark.parametrize("page", pages(), ids=name)
def test_every_link_leads_to_a_page_and_a_heading(page: Path) -> None:
    """Files exist, and so do the headings that an anchor names."""
    broken = []
    for target in links(page):
        path, _, anchor = target.partition("#")
        place = (page.parent / path).resolve() if path else page
        if not place.exists() or (anchor and anchor not in anchors(place)):
            broken.append(target)
    assert broken == []


@pytest.mark.parametrize("page", DESCRIBED, ids=name)
def test_names_in_the_pages_are_in_the_code(page: Path) -> None:
    """`bench.meters.time.paired.compare` can be imported, `bench/config.py` is a file."""
    # Braces, stars and words in capitals stand for something else: `tests/meters/QUANTITY`.
    spans = [span for span in CODE.findall(prose(page)) if not re.search(r"[<>{*]|[A-Z]{3}", span)]
    wrong = [n for span in spans for n in DOTTED.findall(span) if not _is_a_name(n)]
    wrong += [n for span in spans for n in PATH.findall(span) if not _is_a_file(n)]
    assert wrong == []


def _is_a_name(dotted: str) -> bool:
    """Whether the longest module in front of `dotted` has the next part of it. Imports nothing."""
    parts = dotted.split(".")
    for end in range(len(parts), 0, -1):
        place = ROOT.joinpath(*parts[:end])
        files = [f for f in (place.with_suffix(".py"), place / "__init__.py") if f.exists()]
        if files:
            rest = parts[end : end + 1]
            source = files[0].read_text(encoding="utf-8")
            return all(re.search(rf"\b{part}\b", source) for part in rest)
    return False


def _is_a_file(path: str) -> bool:
    # results/NAME is made by a run; only what is tracked can be asked for.
    if path.startswith("results/") and not path.startswith(("results/published", "results/base")):
        return True
    return (ROOT / path.rstrip("./")).exists()


def _commands() -> Iterator[tuple[Path, str]]:
    for page in DESCRIBED:
        for command in commands(page):
            # `&&` joins commands; `VAR=value command` sets one for it.
            for each in command.split("&&"):
                yield page, each.strip()


COMMANDS = sorted({command for _, command in _commands()})


def test_there_are_commands() -> None:
    """The blocks are found: the pages show more than a handful of commands."""
    assert sum(command.startswith("condbench") for command in COMMANDS) > 15


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("condbench ")])
def test_every_condbench_command_is_accepted(command: str) -> None:
    """The parser takes it, and what `run` would do can be planned. Nothing is run."""
    # parse_known_args, as the command itself does: overrides may stand behind an option.
    words = [PLACEHOLDERS.get(word, word) for word in shlex.split(command)[1:]]
    parsed, rest = parser().parse_known_args(words)
    assert [word for word in rest if parsed.verb != "run"] == []
    overrides = [*getattr(parsed, "overrides", []), *rest]
    assert [word for word in overrides if "=" not in word] == []
    for override in overrides:
        key, _, value = override.partition("=")
        named = value.split(",") if key == "experiment" else []
        assert all((ROOT / f"conf/experiment/{each}.yaml").exists() for each in named)
    if parsed.verb == "run" and _is_worth_planning(overrides):
        assert make_plan(overrides).left_out == []


def _is_worth_planning(overrides: list[str]) -> bool:
    """Not where it is an experiment's file, which tests/plan plans, or a method written elsewhere.

    The method that the tutorials write is installed on no other machine.
    """
    keys = {override.partition("=")[0] for override in overrides}
    return bool(keys) and "experiment" not in keys and "my_gate" not in " ".join(overrides)


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("make")])
def test_every_make_target_exists(command: str) -> None:
    """`make nightly GPU=one` names a target of the Makefile."""
    targets = [word for word in command.split()[1:] if "=" not in word]
    assert [target for target in targets if target not in TARGETS] == []


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("python -m ")])
def test_every_module_that_is_run_exists(command: str) -> None:
    """`python -m tests.studies.depth FOLDER` names a module."""
    module = command.split()[2]
    assert module == "pytest" or _is_a_name(module)


def test_no_other_command_is_shown() -> None:
    """Besides ours, only tools that any machine for this project has."""
    known = ("condbench ", "make", "python -m ", "git ", "cd ", "source ", "pip ", "pre-commit ")
    assert [command for command in COMMANDS if not command.startswith(known)] == []


@pytest.mark.soak
def test_the_pages_build_without_a_warning(tmp_path: Path) -> None:
    """What `make docs` does: a broken link, anchor or generated part is an error."""
    # A process of its own: Sphinx keeps state in modules, and warnings are counted per process.
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html"]
    done = subprocess.run(
        [*command, str(ROOT / "docs"), str(tmp_path / "built")],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "built" / "reference" / "metrics.html").exists()
