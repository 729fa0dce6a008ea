"""`condbench check`: honest methods pass, and whoever cheats is named with the line to look at."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from bench import cli
from bench.check import CONTRACTS, Verdict, candidates, check
from bench.check.attempt import attempt
from bench.check.findings import Finding
from bench.plugins import Plugin

CHEATS = Path(__file__).parent / "cheats.py"
OTHERS = {"condbench_sly": "sly_cheats.py", "condbench_subtle": "subtle_cheats.py"}


def load(name: str, path: Path) -> ModuleType:
    """The file as an importable module."""
    spec = importlib.util.spec_from_file_location(name, path)
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module", autouse=True)
def cheats() -> Iterator[ModuleType]:
    """The cheating methods; the other modules are built from the first one's parts."""
    first = load("condbench_cheats", CHEATS)
    for name, file in OTHERS.items():
        load(name, CHEATS.with_name(file))
    yield first
    for name in ("condbench_cheats", *OTHERS):
        sys.modules.pop(name, None)


def checked(name: str) -> Verdict:
    return check(Plugin("method", name, f"condbench_cheats:{name}", "cheats", "1"))


def first_broken(name: str, contract: str) -> Finding | None:
    """What `contract` finds on the first tiny task where it is broken."""
    (tried,) = (each for each in CONTRACTS if each.name == contract)
    modules = [sys.modules[each] for each in ("condbench_cheats", *OTHERS)]
    cls = next(getattr(module, name) for module in modules if hasattr(module, name))
    found, _ = candidates(name, cls())
    findings = (attempt(tried, candidate) for candidate in found)
    return next((finding for finding in findings if finding.outcome == "broken"), None)


def line_of(text: str) -> int:
    """The number of the first line in cheats.py that begins with `text`, without its indent."""
    lines = CHEATS.read_text().splitlines()
    return next(i for i, line in enumerate(lines, 1) if line.strip().startswith(text))


def test_an_honest_method_keeps_every_contract() -> None:
    """Nothing is broken on any tiny task, and each contract is either kept or explained."""
    verdict = checked("Honest")
    assert verdict.ok, "\n".join(verdict.lines())
    assert {f.task for f in verdict.findings} >= {"tiny-image", "tiny-text", "tiny-labels"}
    assert all(f.message for f in verdict.findings if f.outcome == "not defined")


@pytest.mark.parametrize(
    ("name", "contract", "words"),
    [
        ("MaskingMethod", "executed_is_declared", "but 0 are executed above"),
        ("FirstDecidesMethod", "alone_is_batched", "decides otherwise"),
        ("DisobedientMethod", "executed_is_declared", "or the result of decide is not obeyed"),
        ("LeakyMethod", "skipped_learn_nothing", "lets skipped parts through"),
        ("LooksAheadMethod", "no_look_ahead", "decides before position 8 by what follows"),
        ("CallsEmptyMethod", "never_empty", "is called on nothing"),
        ("DeafMethod", "gates_learn", "no gradient reaches"),
        ("RememberingMethod", "no_memory", "something remembers"),
        ("DeduplicatingMethod", "no_memory", "copies of a sample cost"),
        ("PeekingMethod", "targets_unread", "gate 'peek' decides by them"),
        ("SpoilsDense", "open_is_dense", "it must work on a copy"),
        ("FalselyDense", "open_is_dense", "the model is not the dense one"),
        ("Forgetful", "round_trip", "has other results"),
        ("ComputesThenSlicesMethod", "executed_is_declared", "are executed above"),
        ("ImproperlyDense", "executed_is_declared", "are executed above"),
        ("FollowsInCrowdsMethod", "alone_is_batched", "6 samples are not what they are in a batch"),
        ("SavesAloneMethod", "executed_is_declared", "masked: in a batch of 64 its own decisions"),
        ("SavesWhenCountedMethod", "unseen_is_seen", "counted, a batch of"),
        ("HelpedByThreadsMethod", "executed_is_declared", "are executed above"),
        ("HelpedByServantsMethod", "executed_is_declared", "thread::"),
        ("HelpedByNumpyMethod", "executed_is_declared", "floats out of torch"),
        ("MultipliesNothingMethod", "never_empty", "linear is called on nothing"),
        ("RemembersSamplesMethod", "no_memory", "something remembers"),
        ("PeeksAloneMethod", "targets_unread", "must not read batch.targets"),
        ("FreeMaskingMethod", "executed_is_declared", "with every gate open and with every gate"),
        ("HookSaysZero", "executed_is_declared", "with every gate open and with every gate"),
        ("AlsoDenseMethod", "executed_is_declared", "computed for nothing"),
        ("MasksInCrowdsMethod", "executed_is_declared", "masked: in a batch of 64"),
        ("MultipliesAndSumsMethod", "executed_is_declared", "multiplication and sum"),
        ("OutsideRegionMethod", "executed_is_declared", "decides in the region 'backbone'"),
        ("ComputesOutsideMethod", "gates_learn", "no gradient reaches"),
        ("NotInOptimizer", "gates_learn", "param_groups leaves it out"),
        ("LeakyEarlyMethod", "skipped_learn_nothing", "lets skipped parts through"),
        ("DeclaredFirst", "alone_is_batched", "all run what sample 0 of it runs alone"),
        ("FirstAtOtherPoint", "alone_is_batched", "decides otherwise"),
        ("EmptyAtOtherPoint", "never_empty", "is called on nothing"),
        ("OpensFirstMethod", "generates", "decides otherwise in generation with a cache"),
        ("CachesCrowdsMethod", "no_memory", "something remembers"),
        ("RemembersLaterMethod", "no_memory", "something remembers"),
        ("PeeksDeclared", "targets_unread", "must not read batch.targets"),
    ],
)
def test_cheating_is_caught_and_named(name: str, contract: str, words: str) -> None:
    """The contract that fails says what was found, and points into the method's file."""
    broken = first_broken(name, contract)
    assert broken is not None
    assert words in broken.message
    assert str(CHEATS.parent) in broken.line


def test_the_line_is_where_the_gate_decides() -> None:
    """A broken decision points at its call of decide."""
    broken = first_broken("FirstDecidesMethod", "alone_is_batched")
    first = line_of("run = (open_[:1] > 0.5)")
    assert broken.line.startswith(f"{CHEATS}:{first + 1}, where gate 'gate")


def test_a_method_that_crashes_is_broken_where_it_raised() -> None:
    """A task is refused by Unsupported; any other error is the method's, with its line."""
    verdict = checked("Crashing")
    assert not verdict.ok
    assert verdict.broken[0].message == "KeyError: 'tokens'"
    assert verdict.broken[0].line == f"{CHEATS}:{line_of('raise KeyError')}, in build"


def test_a_convolutional_backbone_is_tried_too() -> None:
    """What serves feature maps is tried on them besides; gated feed-forward layers do not."""
    from methods.controls.dense import Dense

    found, _ = candidates("dense", Dense())
    assert {each.task for each in found} >= {"tiny-image", "tiny-image on resnet", "tiny-text"}
    gated, _ = candidates("honest", sys.modules["condbench_cheats"].Honest())
    assert {each.task for each in gated} >= {"tiny-image", "tiny-text"}
    assert not any(each.convolutional for each in gated)


@pytest.mark.usefixtures("only_flops")
def test_flops_from_the_plugins_formulas_are_noted(cheats: ModuleType) -> None:
    """A formula that lies looks like one that does not: the verdict names the operation."""
    verdict = check(Plugin("method", "LyingOp", "condbench_subtle:LyingOpMethod", "cheats", "1"))
    assert verdict.ok, "\n".join(verdict.lines())
    note = "  note     FLOPs from unverified plugin formulas: condbench_cheats::half"
    assert verdict.lines()[-2] == note


@pytest.mark.usefixtures("few_contracts")
def test_the_verb_prints_the_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    """One line per contract and exit code 0 for a method that keeps them all."""
    assert cli.main(["check", "dense"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("dense on tiny-image, ")
    assert "  kept     never_empty" in out
    assert "  -        gates_learn            no gate with parameters" in out
    assert "  1 kept, 0 broken, 1 not applicable: " in out


@pytest.mark.usefixtures("few_contracts")
def test_a_named_variant_is_checked_with_its_settings(capsys: pytest.CaptureFixture[str]) -> None:
    """A file in conf/method is tried like the method it names; misspelt, the nearest is named."""
    assert cli.main(["check", "random_topk_ffn"]) == 0
    assert capsys.readouterr().out.startswith("random_topk_ffn on tiny-image, ")
    assert cli.main(["check", "moe_topp1"]) == 2
    assert "did you mean 'moe_top1'?" in capsys.readouterr().err


def test_an_unknown_method_is_exit_2(capsys: pytest.CaptureFixture[str]) -> None:
    """The choices are listed."""
    assert cli.main(["check", "mo"]) == 2
    assert "did you mean 'moe'?" in capsys.readouterr().err
