"""Kinds of decisions that no built-in method makes can be announced, forced and replayed."""

from __future__ import annotations

import pytest

from bench.check import check
from bench.plugins import Plugin


@pytest.mark.parametrize(
    ("name", "tasks"),
    [
        ("Merging", {"tiny-image", "tiny-audio", "tiny-labels"}),
        ("Widths", {"tiny-image", "tiny-audio", "tiny-labels"}),
        ("Halting", {"tiny-image", "tiny-audio", "tiny-labels", "tiny-text"}),
    ],
)
def test_a_prototype_keeps_every_contract(name: str, tasks: set[str]) -> None:
    """Token merging, a width per sample and halting per token: on every task that they take."""
    target = f"tests.check.prototypes:{name}"
    verdict = check(Plugin("method", name.lower(), target, "tests", "0"))
    assert verdict.ok, "\n".join(verdict.lines())
    assert {finding.task for finding in verdict.findings} == tasks
    kept = {f.contract for f in verdict.findings if f.outcome == "kept"}
    assert {"skipping_is_masking", "executed_is_declared", "never_empty"} <= kept
