"""What every built-in method promises (docs/contract.md), on tiny tasks of every kind."""

from __future__ import annotations

import pytest

from bench.check import CONTRACTS, Contract
from bench.check.verdict import attempt

DECIDE_NOTHING = {"dense", "shrunk_dense", "soft_moe"}
ALWAYS_APPLY = {
    *("skipping_is_masking", "never_empty", "alone_is_batched", "no_memory"),
    *("same_seed", "round_trip", "bf16"),
}
NEED_DECISIONS = {"executed_is_declared", "skipped_learn_nothing"}


@pytest.mark.parametrize("contract", CONTRACTS, ids=lambda contract: contract.name)
def test_every_contract_is_kept(built_in, contract: Contract) -> None:
    """No contract is broken, and none is silently passed over where it applies."""
    finding = attempt(contract, built_in)
    assert finding.answer != "broken", f"{finding.message}\nlook at {finding.line}"
    if finding.answer == "not defined":
        assert finding.message
        remembers = contract.name == "no_memory" and hasattr(built_in.method, "reads_targets")
        assert contract.name not in ALWAYS_APPLY or remembers
        assert contract.name not in NEED_DECISIONS or built_in.name in DECIDE_NOTHING
