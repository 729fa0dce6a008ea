"""2,000 mutated files and settings: each is read or refused, in a sentence and without waiting.

A failure prints the seed; CONDBENCH_FUZZ_SEED=SEED repeats the cases from there on.
"""

from __future__ import annotations

import json
import os
import random
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.odd_files import at_most
from tests.fuzz.cases import CASES, PUBLISHED, Case, Source

PATIENCE_S = 60.0  # for one case: a tenth of a second on an idle machine
FIRST_SEED = 20_260_000  # of the suite's share: the same cases every time


@pytest.fixture
def source(tmp_path: Path, house) -> Source:
    """A published trial of a method with operating points, and the published night."""
    trial = min(path.parent for path in PUBLISHED.rglob("early_exit*/seed0-*/raw.npz"))
    place = tmp_path / "place"
    place.mkdir()
    night = json.loads((PUBLISHED / "nights" / "verdict.json").read_text())
    return Source(trial, night, place, house)


def outside(tmp_path: Path) -> set[str]:
    """What lies where no case may write: beside its folder, and in the working folder."""
    folders = (tmp_path, Path.cwd())
    return {f"{folder}/{each.name}" for folder in folders for each in folder.iterdir()}


@pytest.fixture
def confined(tmp_path: Path) -> Iterator[None]:
    """Fails where something appeared outside of the cases' folder."""
    before = outside(tmp_path)
    yield
    assert outside(tmp_path) <= before | {f"{tmp_path}/place"}
    assert list((tmp_path / "place").iterdir()) == []


def run_all(case: Case, source: Source, seeds: range) -> None:
    """Run a case with each seed; a failure names the seed."""
    for number, seed in enumerate(seeds):
        try:
            # matplotlib and numpy warn of values that are merely odd.
            with at_most(PATIENCE_S), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                case(source, number, random.Random(seed))
        except Exception as error:
            raise AssertionError(f"{case.__name__}: seed {seed}: {error!r}") from error


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_a_share_of_the_fuzzer(case: Case, source: Source, confined: None) -> None:
    """The same few cases every time."""
    _, count = CASES[case]
    run_all(case, source, range(FIRST_SEED, FIRST_SEED + count))


@pytest.mark.soak
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_the_fuzzer(case: Case, source: Source, confined: None) -> None:
    """Other cases every time, 2,000 together; CONDBENCH_FUZZ_SEED repeats them."""
    count, _ = CASES[case]
    start = int(os.environ.get("CONDBENCH_FUZZ_SEED") or random.SystemRandom().randrange(10**9))
    print(f"{case.__name__}: seeds {start} to {start + count - 1}")
    run_all(case, source, range(start, start + count))
