"""Work outside torch, under a false name or from memory: found, with the line to look at."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.check import CONTRACTS, candidates
from bench.check.attempt import attempt
from bench.check.findings import Finding

FILES = {
    "condbench_cheats": "cheats.py",
    "condbench_sly": "sly_cheats.py",
    "condbench_outside": "outside_cheats.py",
}


@pytest.fixture(scope="module", autouse=True)
def cheats() -> Iterator[None]:
    """The cheating methods; the later modules are built from the first ones' parts."""
    for name, file in FILES.items():
        spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(file))
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    yield
    for name in FILES:
        sys.modules.pop(name, None)


def findings(name: str, contract: str) -> Iterator[Finding]:
    (tried,) = (each for each in CONTRACTS if each.name == contract)
    found, _ = candidates(name, getattr(sys.modules["condbench_outside"], name)())
    return (attempt(tried, candidate) for candidate in found)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize(
    ("name", "contract", "words"),
    [
        ("ByBitsMethod", "all_is_counted", "of their bits takes"),
        ("ByAddressMethod", "all_is_counted", "data_ptr takes"),
        ("ByForkMethod", "all_is_counted", "starts a process by fork"),
        ("ByOlderThreadMethod", "all_is_counted", "numpy in another thread takes"),
        ("ByPackedLayerMethod", "all_is_counted", "outside::aten::add_: no FLOP formula"),
        ("ByTagMethod", "all_is_counted", "aten::condbench_gelu_copy: no FLOP formula"),
        ("ByNormalisationMethod", "executed_is_declared", "a product by multiplication and sum"),
        ("ByProdMethod", "executed_is_declared", "a product by multiplication and sum"),
        ("NumpyModelMethod", "all_is_counted", "floats out of torch"),
        ("RemembersCalibration", "no_memory", "given to calibrate"),
    ],
)
def test_work_that_is_not_counted_is_found(name: str, contract: str, words: str) -> None:
    """The message of the contract names what was found."""
    broken = next((each for each in findings(name, contract) if each.outcome == "broken"), None)
    assert broken is not None
    assert words in broken.message


def test_constants_may_come_from_anywhere() -> None:
    """A list, an array and a plain tensor that are the same for every input."""
    outcomes = {each.outcome for each in findings("HonestWithConstants", "all_is_counted")}
    assert outcomes == {"kept"}
