"""Every built-in method keeps the contracts of docs/reference/contract.md, on tiny tasks."""

from __future__ import annotations

from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

import conf
from bench.check import CONTRACTS, Contract, candidates
from bench.check.attempt import attempt

DECIDE_NOTHING = {
    "dense",
    "shrunk_dense",
    "soft_moe",
    "downsample",
    "condconv",
    "rigl",
    "layer_skip",
}
ALWAYS_APPLY = {
    *("finite", "skipping_is_masking", "never_empty", "alone_is_batched", "no_memory"),
    *("same_seed", "round_trip", "bf16"),
}
NEED_DECISIONS = {"executed_is_declared", "skipped_learn_nothing"}
DOORS = {door.name: door for door in entry_points(group="condbench.methods")}
VARIANTS = sorted((Path(conf.__file__).parent / "method").glob("*.yaml"))
SIZES = {"num_experts", "top_k", "hidden_ratio", "slots_per_expert", "activation"}
OF_THE_CODE = {"no_memory", "unseen_is_seen", "targets_unread", "same_seed"}  # not of settings


@pytest.mark.parametrize("contract", CONTRACTS, ids=lambda contract: contract.name)
def test_every_contract_is_kept(built_in, contract: Contract) -> None:
    """No contract is broken, and none is silently passed over where it applies."""
    finding = attempt(contract, built_in)
    assert finding.outcome != "broken", f"{finding.message}\nlook at {finding.line}"
    if finding.outcome == "not defined":
        assert finding.message
        remembers = contract.name == "no_memory" and hasattr(built_in.method, "reads_targets")
        assert contract.name not in ALWAYS_APPLY or remembers
        assert contract.name not in NEED_DECISIONS or built_in.name in DECIDE_NOTHING


@pytest.mark.parametrize("path", VARIANTS, ids=lambda path: path.stem)
def test_no_named_variant_breaks_a_contract(path: Path) -> None:
    """What conf/method offers keeps what settings may break, where tokens are padded or causal.

    Another size of a method is tried on one task: padded sequences. What takes none of these tasks
    is tried on images.
    """
    settings: Any = OmegaConf.to_container(OmegaConf.load(path))
    (name,) = settings.pop("defaults")
    found, _ = candidates(path.stem, DOORS[name].load()(**settings))
    tasks = (
        {"tiny-labels"} if settings.keys() <= SIZES else {"tiny-labels", "tiny-text", "tiny-pairs"}
    )
    chosen = [each for each in found if each.tiny.spec.name in tasks]
    chosen = chosen or [each for each in found if each.tiny.spec.name == "tiny-image"]
    contracts = [contract for contract in CONTRACTS if contract.name not in OF_THE_CODE]
    findings = [attempt(contract, each) for each in chosen for contract in contracts]
    broken = [(f.contract, f.task, f.message) for f in findings if f.outcome == "broken"]
    assert findings
    assert broken == []
