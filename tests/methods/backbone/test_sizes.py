"""Named sizes are the published ones: parameters and costs, without allocating a weight."""

from __future__ import annotations

import re
from importlib.metadata import entry_points

import pytest
from omegaconf import OmegaConf

from tests.studies.backbone_sizes import (
    BEGIN,
    END,
    PAGE,
    SIZE,
    VARIANTS,
    Size,
    count_size,
    describe,
    first_line,
    sizes,
    table,
)
from tests.studies.pages import split_page

FACTORS = {"": 1.0, "K": 1e3, "M": 1e6, "G": 1e9}
DOORS = {door.name: door for door in entry_points(group="condbench.backbones")}


def _within(counts: int, printed: str) -> bool:
    """Whether a count is what a source printed: to its last digit, or within 0.1 %."""
    number, _, unit = printed.partition(" ")
    digits = len(number.partition(".")[2])
    value, last = float(number) * FACTORS[unit], 10.0**-digits * FACTORS[unit]
    exact = not unit  # a whole number is meant to the unit
    return counts == value if exact else abs(counts - value) <= max(last / 2, value / 1000)


def _difference(size: Size) -> tuple[str, float]:
    """The figure that differs according to `size.why`, and by how many percent."""
    found = re.match(r"(parameters|MAC) ([+-][\d.]+) %: \S+", size.why)
    assert found is not None, f"{size.name}: {size.why!r} does not name what differs"
    return found[1], float(found[2])


@pytest.mark.parametrize("size", sizes(), ids=lambda s: f"{s.name}-{s.input.replace(' ', '-')}")
def test_counts_are_the_published_ones(size: Size) -> None:
    """Parameters and MACs agree with the published ones, or differ as the table states."""
    differs = _difference(size) if size.why else None
    params, macs = count_size(size)
    for name, counts, printed in (("parameters", params, size.params), ("MAC", macs, size.macs)):
        if differs is not None and differs[0] == name:
            number, _, unit = printed.partition(" ")
            percent = 100 * (counts / (float(number) * FACTORS[unit]) - 1)
            assert percent == pytest.approx(differs[1], abs=0.05)
            assert not _within(counts, printed)  # else there is nothing to explain
        elif printed:
            assert _within(counts, printed), f"{name}: {counts:,}, published {printed}"


@pytest.mark.parametrize(
    ("counts", "printed", "expected"),
    [
        (853_018, "0.85 M", True),
        (856_000, "0.85 M", False),
        (11_689_512, "11689512", True),
        (11_689_513, "11689512", False),
        (1_814_073_344, "1.814 G", True),
        (1_816_500_000, "1.814 G", False),
    ],
)
def test_agreement_is_to_the_last_printed_digit(counts: int, printed: str, expected: bool) -> None:
    """Half a unit of the last digit or 0.1 % may differ; a whole number is meant exactly.

    0.85 M covers 845,000 to 855,000; 0.1 % of 1.814 G is 1.8 M.
    """
    assert _within(counts, printed) is expected


def test_the_page_shows_what_is_counted() -> None:
    """The page is up to date; `python -m tests.studies.backbone_sizes --write` rewrites it."""
    assert split_page(PAGE, BEGIN, END)[1].splitlines() == list(table())


@pytest.mark.parametrize("path", sorted(VARIANTS.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_size_is_settings_of_a_family(path) -> None:
    """A file names its family, sets fields that the family has, and states its size."""
    settings = OmegaConf.to_container(OmegaConf.load(path))
    (base,) = settings.pop("defaults")
    defaults = DOORS[base].load()()
    assert settings
    assert set(settings) <= set(vars(defaults))
    assert path.stem not in DOORS  # it would replace the family's typed node
    first = path.read_text(encoding="utf-8").splitlines()[0]
    assert re.search(rf": {SIZE}\.$", first)
    assert first == first_line(path.stem)


@pytest.mark.parametrize("name", [n for n, d in DOORS.items() if d.value.startswith("methods.")])
def test_a_family_says_how_large_its_defaults_are(name: str) -> None:
    """What `condbench list` prints is what is counted."""
    assert DOORS[name].load().size == next(describe(s) for s in sizes() if s.name == name)


def test_a_size_without_a_published_figure_says_so() -> None:
    """No empty cell: neither figure, or the one that is missing."""
    _, _, *rows = (line.split(" | ") for line in table())
    cells = {row[0]: row[4] for row in rows}
    assert cells["| `resnet8`"] == "no published figure"
    assert cells["| `resnet20`"] == "0.27 M / no published figure"


def test_every_size_and_family_is_in_the_table() -> None:
    """No file in conf/backbone and no convolutional or transformer family is left out."""
    listed = {size.name for size in sizes()}
    assert {path.stem for path in VARIANTS.glob("*.yaml")} <= listed
    based = {OmegaConf.load(path).defaults[0] for path in VARIANTS.glob("*.yaml")}
    ours = {name for name, door in DOORS.items() if door.value.startswith("methods.")}
    assert ours <= listed | based
