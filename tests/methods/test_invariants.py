"""What every built-in method promises (docs/contract.md), on tiny tasks of every kind."""

from __future__ import annotations

from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

import conf
from bench.check import CONTRACTS, Contract, candidates
from bench.check.verdict import attempt

DECIDE_NOTHING = {"dense", "shrunk_dense", "soft_moe"}
ALWAYS_APPLY = {
    *("skipping_is_masking", "never_empty", "alone_is_batched", "no_memory"),
    *("same_seed", "round_trip", "bf16"),
}
NEED_DECISIONS = {"executed_is_declared", "skipped_learn_nothing"}
VARIANTS = sorted((Path(conf.__file__).parent / "method").glob("*.yaml"))


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


@pytest.mark.parametrize("path", VARIANTS, ids=lambda path: path.stem)
def test_no_named_variant_breaks_a_contract(path: Path) -> None:
    """What conf/method offers keeps every contract, on tasks that pad or look ahead if they can."""
    settings: Any = OmegaConf.to_container(OmegaConf.load(path))
    (name,) = settings.pop("defaults")
    door = entry_points(group="condbench.methods")[name]
    found, _ = candidates(path.stem, door.load()(**settings))
    asked = [each for each in found if each.tiny.spec.kind != "image"] or found
    findings = [attempt(contract, each) for each in asked for contract in CONTRACTS]
    broken = [(f.contract, f.task, f.message) for f in findings if f.answer == "broken"]
    assert findings
    assert broken == []
