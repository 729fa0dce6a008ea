"""What a table is: rows with their names and remarks, and what qualifies them."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from bench.records.catalogue import CLOSED_SHARE, DECLARED_SAVING, EXECUTED_SAVING, NOISE_FLOOR
from bench.records.reading import Found
from bench.records.record import Labels, QualityLabel
from bench.report.tables.cells import Cell
from bench.report.tables.grouping import own_variant
from bench.routing import SHORTFALL

DENSE = "dense"
Shortfall = Literal["", "masked", "padded"]


@dataclass(frozen=True)
class Row:
    """One method, variant and operating point, aggregated over seeds."""

    method: str
    variant: str
    point: str  # "threshold=0.9"; "" for the default operating point
    seeds: tuple[int, ...]
    cells: dict[str, Cell]  # by metric key
    quality_by_seed: dict[int, float]
    settings: str = ""  # "threshold 0.9", also of the default; "" where there is one point only
    is_ceiling: bool = False  # a control that reads the targets
    depends_on_batch: bool = False
    choice: str = ""  # "equal quality" or "nearest": why the default point is this one
    tolerance: float | None = None  # of quality, in its unit, by which the point was chosen
    entry_point: str = ""  # of the method: named variants share it
    cheapest_kept: bool = False  # of a method's variants with one point each, at equal quality
    sample_error: float | None = (
        None  # of quality minus dense, over test samples: half its interval
    )
    trained_with: str = ""  # "capacity 0.25" where the model was trained with another setting

    @property
    def name(self) -> str:
        """`moe,num_experts=16`, or `early_exit @ threshold 0.9` where points differ."""
        return f"{self.method_name} {self.point_label}".rstrip()

    @property
    def method_name(self) -> str:
        """`moe,num_experts=16`: the same at all operating points."""
        return _name(self.method, self.variant)

    @property
    def point_label(self) -> str:
        """`@ threshold 0.9`; "" for a method with one operating point.

        The chosen point's is `@ equal quality: threshold 0.9`, or `@ nearest quality: ...` where no
        point keeps the quality of dense. Where each variant of a method has one point (the widths
        of a smaller dense model), the cheapest that keeps quality is `@ equal quality`.
        """
        if not self.settings:
            return "@ equal quality" if self.cheapest_kept else ""
        kind = {"equal quality": "equal quality: ", "nearest": "nearest quality: "}
        return f"@ {kind.get(self.choice, '')}{self.settings}"

    @property
    def shortfall(self) -> Shortfall:
        """How the executed saving falls short of the declared one, in the largest batch.

        "masked": at most half of it was executed. "padded": more than half; batching costs the
        rest, as short samples padded to the longest do. "": all of it within SHORTFALL.
        """
        declared = self.value(DECLARED_SAVING.key)
        executed = self.value(EXECUTED_SAVING.key)
        if declared is None or executed is None or declared - executed <= SHORTFALL:
            return ""
        # Padding costs a part of a saving; a mask costs nearly all of it.
        return "padded" if executed > declared / 2 else "masked"

    @property
    def never_saves(self) -> bool:
        """Whether even closed gates leave as many FLOPs as dense has."""
        least = self.value(CLOSED_SHARE.key)
        return least is not None and least >= 1

    @property
    def remarks(self) -> tuple[str, ...]:
        """What limits the meaning of the row, in a few words each."""
        # In the order of severity: what disqualifies the row as a result comes first.
        remarks = {
            "oracle upper bound": self.is_ceiling,
            "output depends on other samples in the batch": self.depends_on_batch,
            "never below dense": self.never_saves,
            f"trained with {self.trained_with}": self.trained_with != "",
            self.shortfall: self.shortfall != "",
        }
        return tuple(remark for remark, holds in remarks.items() if holds)

    def value(self, key: str) -> float | None:
        """The mean of a metric; None where it is missing."""
        cell = self.cells.get(key)
        return None if cell is None else cell.value


@dataclass(frozen=True)
class NoiseFloor:
    """The A/A control of one batch size: |ratio of identical models - 1|."""

    value: float
    is_noisy: bool  # above the meter's limit


@dataclass(frozen=True)
class Table:
    """Rows that may be compared, with the notes that qualify them."""

    hardware: str
    task: str
    backbone: str
    profile: str
    subtitle: str  # settings that all its rows share and that are not the defaults
    quality: QualityLabel | None
    rows: list[Row]
    found: list[Found]  # the trials behind the rows, skipped and failed ones included
    unfinished: list[str] = field(default_factory=list)  # skipped and failed trials with reason
    notes: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    @property
    def title(self) -> str:
        """`digits, transformer`: what the rows have in common."""
        return f"{self.task}, {self.backbone}" + (f" ({self.subtitle})" if self.subtitle else "")

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of all rows, ascending."""
        return tuple(sorted({seed for row in self.rows for seed in row.seeds}))

    @cached_property
    def keys(self) -> set[str]:
        """The metric keys of all rows."""
        return {key for row in self.rows for key in row.cells}

    @property
    def noise_floors(self) -> dict[int, NoiseFloor]:
        """The worst A/A control of each batch size, noisy ones included."""
        # The worst trial decides: one noisy session qualifies every comparison of the table.
        worst: dict[int, NoiseFloor] = {}
        for item in self.found:
            for key, metric in item.record.metrics.items():
                slots = NOISE_FLOOR.match(key)
                if slots is None or metric.value is None:
                    continue
                size = int(slots[0])
                if size not in worst or metric.value > worst[size].value:
                    worst[size] = NoiseFloor(metric.value, is_noisy=metric.reason is not None)
        return worst


def _name(method: str, variant: str) -> str:
    return f"{method},{variant}" if variant else method


def trial_name(labels: Labels) -> str:
    """The name of the row that a trial belongs to, without an operating point."""
    return _name(labels.method, own_variant(labels))
