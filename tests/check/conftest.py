"""Fewer contracts, for tests of the report and of the verb."""

from __future__ import annotations

import pytest

from bench.check import CONTRACTS, attempt


def _keep(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    few = [contract for contract in CONTRACTS if contract.name in names]
    monkeypatch.setattr(attempt, "CONTRACTS", few)


@pytest.fixture
def few_contracts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two quick ones; methods without a gate have no use for the second."""
    _keep(monkeypatch, "never_empty", "gates_learn")


@pytest.fixture
def only_flops(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that counts."""
    _keep(monkeypatch, "executed_is_declared")
