"""The kit names a fault once, by its cause, and no more than that."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from bench.check import CONTRACTS, Verdict, candidates, check
from bench.check.attempt import attempt
from bench.check.findings import Finding
from bench.plugins import BrokenPlugin, Plugin

FAULTY = Path(__file__).parent / "faulty.py"


@pytest.fixture(scope="module", autouse=True)
def faulty() -> Iterator[None]:
    """The faulty methods as an importable module."""
    spec = importlib.util.spec_from_file_location("condbench_faulty", FAULTY)
    module = sys.modules["condbench_faulty"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield
    del sys.modules["condbench_faulty"]


def plugin(name: str) -> Plugin:
    return Plugin("method", name.lower(), f"condbench_faulty:{name}", "faulty", "1")


def checked(name: str) -> Verdict:
    return check(plugin(name))


def found(name: str, contract: str) -> list[Finding]:
    """What one contract finds on every tiny task."""
    (tried,) = (each for each in CONTRACTS if each.name == contract)
    method = getattr(sys.modules["condbench_faulty"], name)()
    return [attempt(tried, candidate) for candidate in candidates(name, method)[0]]


def test_lazy_layers_are_materialised_first() -> None:
    """nn.LazyLinear runs in a trial, and keeps every contract."""
    verdict = checked("Lazy")
    assert verdict.ok, "\n".join(verdict.lines())
    assert "tiny-labels" in verdict.tasks


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("SomeNaN", "inference, batch of 6: logits of 2 of 6 samples are not finite"),
        ("InfiniteLoss", "before training: the loss is inf"),
        ("Diverging", "after a few training steps "),
    ],
)
def test_what_is_not_finite_is_said_first_and_nothing_else(name: str, message: str) -> None:
    """NaN reads no targets and looks at no later token: no further contract is tried."""
    verdict = checked(name)
    assert {finding.contract for finding in verdict.broken} == {"finite"}
    assert {finding.contract for finding in verdict.findings} == {"finite"}
    assert verdict.broken[0].message.startswith(message)
    assert verdict.stopped == verdict.tasks
    lines = verdict.lines()
    assert lines[1].startswith("  BROKEN   finite ")
    assert lines[-2] == f"  stopped  no further contract was tried on {', '.join(verdict.tasks)}"
    assert lines[-1].startswith("  0 kept, 1 broken, 0 not applicable: ")


def test_the_operating_point_that_is_not_finite_is_named() -> None:
    """The default is fine."""
    (first, *_) = found("NaNAtOnePoint", "finite")
    assert first.message == (
        "inference, batch of 1 at scale=2.0: logits of 1 of 1 samples are not finite"
    )


def test_one_typo_is_shown_once() -> None:
    """With the number of contracts that it breaks, and no further traceback of the same line."""
    verdict = checked("Typo")
    lines = verdict.lines()
    message = "AttributeError: '_Typo' object has no attribute 'gaet'"
    assert sum(message in line for line in lines) == 1
    line = FAULTY.read_text().splitlines().index("        return self.gaet(logits)") + 1
    assert f"           look at {FAULTY}:{line}, in changed" in lines
    (rest,) = (line for line in lines if "the same error" in line)
    repeated = {finding.contract for finding in verdict.broken} - {"finite"}
    assert rest == (
        f"  BROKEN   {'finite':<22} the same error in {len(repeated)} more contracts: "
        + ", ".join(each.name for each in CONTRACTS if each.name in repeated)
    )
    assert len(repeated) > 9


@pytest.mark.usefixtures("few_contracts")
def test_a_misspelt_hook_is_broken_with_a_suggestion() -> None:
    """It would never be called, and the method measured without it."""
    verdict = checked("Misspelt")
    assert [finding.contract for finding in verdict.broken] == ["hook_names"]
    assert verdict.broken[0].message.startswith("calibrte: did you mean 'calibrate'?")
    assert verdict.broken[0].line.startswith(f"{FAULTY}:")


def test_a_sample_of_padding_only_must_stay_finite() -> None:
    """A mean over no token is NaN, and the dense model's is not."""
    answers = {finding.task: finding for finding in found("MeanOfReal", "only_padding")}
    assert answers["tiny-image"].outcome == "not defined"
    assert answers["tiny-labels"].message == (
        "inference, one of 6 samples is padding only: logits of 1 of 6 samples are not finite"
    )


def test_a_trained_model_must_be_at_its_default_point() -> None:
    """The first point is measured as the default."""
    (first, *_) = found("LeftElsewhere", "default_point")
    assert first.message.startswith("a trained model is not at the first point: logits differ")


def test_a_method_that_refuses_its_own_defaults_cannot_be_checked() -> None:
    """One sentence, without the name of an exception."""
    with pytest.raises(BrokenPlugin, match=r"cannot be used: num_experts=0: must be at least 1$"):
        checked("OutOfRange")


def test_a_method_that_ends_the_program_is_broken() -> None:
    """sys.exit in a plugin is a finding, not the end of the kit."""
    (first, *_) = found("Quitting", "finite")
    assert (first.outcome, first.message) == ("broken", "SystemExit: 3")


def test_every_line_is_handed_out_when_it_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """The report on the screen is the report that is kept, and grows contract by contract."""
    from bench.check import attempt as module

    monkeypatch.setattr(module, "CONTRACTS", CONTRACTS[:3])
    shown: list[str] = []
    counts: list[int] = []
    original = module.attempt

    def counting(contract, candidate):
        counts.append(len(shown))
        return original(contract, candidate)

    monkeypatch.setattr(module, "attempt", counting)
    verdict = check(plugin("Dense"), on_line=shown.append)
    assert shown == verdict.lines()
    # the head before the first contract; then one line more after each
    assert list(dict.fromkeys(counts)) == [1, 2, 3]


def test_one_thread_checks_and_the_others_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads that wait for one another take minutes on a busy machine."""
    from bench.check import attempt as module

    monkeypatch.setattr(module, "CONTRACTS", CONTRACTS[:1])
    threads: list[int] = []
    original = module.attempt

    def watching(contract, candidate):
        threads.append(torch.get_num_threads())
        return original(contract, candidate)

    monkeypatch.setattr(module, "attempt", watching)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        checked("Dense")
        assert (set(threads), torch.get_num_threads()) == ({1}, 2)
    finally:
        torch.set_num_threads(before)
