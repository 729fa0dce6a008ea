"""One shape for what every meter returns, and the findings that the parts add up to.

Part       what one meter found: metrics, raw vectors, diagnostics, notes
Findings   what all meters found, as the record holds it
merge      adds a part to the findings, at one operating point or for the whole trial
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bench.measure.subject import Metrics
from bench.records.record import Metric, PointResult, QualityLabel

DEFAULT = 0  # the number of the default operating point: points() returns it first


@dataclass(frozen=True)
class Part:
    """What one meter found; every field may be empty.

    `raw` holds arrays for raw.npz. A diagnostics entry is a mapping, a list or a number.
    """

    metrics: Mapping[str, Metric] = field(default_factory=dict)
    raw: Mapping[str, np.ndarray] = field(default_factory=dict)
    diagnostics: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()
    quality: QualityLabel | None = None  # how to read infer/quality


@dataclass
class Findings:
    """What all meters found.

    `metrics` are those of the whole trial; those of the default operating point join them when
    measuring ends. `points` holds the metrics of every operating point, the default first.
    """

    metrics: Metrics = field(default_factory=dict)
    quality: QualityLabel | None = None
    points: list[PointResult] = field(default_factory=list)
    raw: dict[str, np.ndarray] = field(default_factory=dict)
    diagnostics: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def merge(findings: Findings, part: Part, point: int | None) -> None:
    """Add `part`, measured at operating point number `point`, or (None) once per trial.

    Raw vectors of a point get its number as a suffix, a mapping among its diagnostics its number as
    a key. Notes and the quality label are those of the default operating point.
    """
    if point is None:
        findings.metrics |= part.metrics
        findings.raw |= part.raw
        findings.notes += part.notes
        _merge_diagnostics(findings.diagnostics, part.diagnostics)
        return
    findings.points[point].metrics |= part.metrics
    findings.raw |= {f"{name}_point{point}": values for name, values in part.raw.items()}
    # Lists grow by one entry per point, and their entries name the settings themselves.
    _merge_diagnostics(
        findings.diagnostics,
        {
            name: {f"point{point}": entry} if isinstance(entry, Mapping) else entry
            for name, entry in part.diagnostics.items()
        },
    )
    if point == DEFAULT:
        findings.notes += part.notes
        findings.quality = part.quality or findings.quality


def _merge_diagnostics(found: dict[str, Any], more: Mapping[str, Any]) -> None:
    """Mappings are joined at every depth, lists appended; anything else replaces what was there."""
    for name, entry in more.items():
        before = found.get(name)
        if isinstance(entry, Mapping) and isinstance(before, dict):
            _merge_diagnostics(before, entry)
        elif isinstance(entry, list) and isinstance(before, list):
            before += entry
        else:
            # A copy: later parts are merged into it, and a part never changes.
            found[name] = copy(entry)
