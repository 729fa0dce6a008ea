"""FLOP figures that cannot be all of them: none at all, or contradicted by what was observed."""

from __future__ import annotations

import pytest

from bench.measure.plausibility import Facts, check
from bench.records.record import Metric

SHOWN = {
    "infer/flops_per_sample": 1e6,
    "infer/flops_per_sample_b1": 1e6,
    "infer/flops_per_sample_b64": 1e6,
    "infer/flops_share": 0.5,
    "infer/tau_b64": 2.0,
    "infer/realised_b64": 0.75,
    "infer/flops_profiler": 1e6,
    "infer/speedup_b64": 1.5,
    "infer/pointwise_elems": 1e4,
}


NO_FACTS = Facts()


def reasons(facts: Facts = NO_FACTS, **changed: float) -> dict[str, str]:
    """Why each metric is invalid, with `changed` values at `infer/...`."""
    values = SHOWN | {f"infer/{name}": value for name, value in changed.items()}
    found = check({key: Metric(value=value, unit="1") for key, value in values.items()}, facts)
    return {key: str(each.reason) for key, each in found.items() if not each.valid}


OF_FLOPS = {key for key in SHOWN if "speedup" not in key and "pointwise" not in key}


@pytest.mark.parametrize(
    "name", ["flops_per_sample", "flops_per_sample_b1", "flops_per_sample_b64"]
)
def test_no_flops_at_all_is_no_count(name: str) -> None:
    """A model that answers without a single product computed it where no counter looked."""
    found = reasons(**{name: 0.0})
    assert set(found) == OF_FLOPS - {"infer/flops_profiler"}
    assert "executed no FLOPs" in found[f"infer/{name}"]
    assert reasons() == {}


def test_what_was_observed_besides_voids_every_flop_figure() -> None:
    """Observations in words; the first one is the reason."""
    found = reasons(Facts(flop_doubts=("12 floats left torch by numpy", "other")))
    assert set(found) == OF_FLOPS - {"infer/flops_profiler"}
    assert found["infer/tau_b64"] == "withheld: 12 floats left torch by numpy"


def test_products_by_hand_in_batches_only_are_found() -> None:
    """Alone 1e4 elements a sample, in a batch 1e6, where the dense model writes 1e4."""
    dense = {"dense_elems": 1e4}
    assert reasons(Facts(**dense, batch_elems=2e4)) == {}
    found = reasons(Facts(**dense, batch_elems=1e6))
    assert "products by multiplication and sum" in found["infer/flops_share"]
