"""Trials of a map in the order of a time budget: a coarse grid, then around the contour."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeVar

from bench.records.reading import Found
from bench.records.record import Labels
from bench.report.maps.cells import DENSE, Size, maps_by_plane, plane_of, size_of
from bench.report.maps.grid import coarse, to_refine


class Trial(Protocol):
    """A planned trial, as far as a map reads it."""

    @property
    def labels(self) -> Labels:
        """Which cell of the matrix it is."""
        ...

    @property
    def config(self) -> Mapping[str, Any]:
        """Its resolved configuration."""
        ...


T = TypeVar("T", bound=Trial)


def coarse_trials(trials: Sequence[T]) -> list[list[T]]:
    """The trials of the coarse grid, those of one size together, small sizes first.

    Trials without a size come first. The dense model's own are left out: every method is timed
    beside it, and a map has no row of it.
    """
    others = [trial for trial in trials if size_of(trial.config) is None]
    wanted = {
        plane: coarse({size for size, _ in group}) for plane, group in _by_plane(trials).items()
    }
    groups: list[list[T]] = _by_size(
        trial
        for plane, group in _by_plane(trials).items()
        for size, trial in group
        if size in wanted[plane]
    )
    return [others, *groups] if others else groups


def refining_trials(trials: Sequence[T], found: Sequence[Found]) -> list[list[T]]:
    """The trials between sizes where a method is faster than dense and where it is not.

    `found`: the records of the trials that have run. Those of one size stand together, small sizes
    first.
    """
    maps = maps_by_plane(found)
    wanted = {
        plane: to_refine(maps[plane].cells, [size for size, _ in group])
        for plane, group in _by_plane(trials).items()
        if plane in maps
    }
    return _by_size(
        trial
        for plane, group in _by_plane(trials).items()
        for size, trial in group
        if size in wanted.get(plane, ())
    )


def _by_plane(trials: Sequence[T]) -> dict[str, list[tuple[Size, T]]]:
    planes: dict[str, list[tuple[Size, T]]] = defaultdict(list)
    for trial in trials:
        size = size_of(trial.config)
        if size is not None and trial.labels.method != DENSE:
            planes[plane_of(trial.labels, trial.config)].append((size, trial))
    return planes


def _by_size(trials: Any) -> list[list[T]]:
    groups: dict[Size, list[T]] = defaultdict(list)
    for trial in trials:
        size = size_of(trial.config)
        assert size is not None
        groups[size].append(trial)
    # A block's products grow with tokens x width^2.
    return [groups[size] for size in sorted(groups, key=lambda s: s.tokens * s.width**2)]
