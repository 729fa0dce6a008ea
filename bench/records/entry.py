"""An entry of the metric catalogue: key, unit and range, what it is over, where it is shown."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from typing import Literal

from bench.routing import REGIONS

Over = Literal[
    "the model",
    "the test split",
    "the first input",
    "each input alone",
    "a batch",
    "the largest batch",
    "a process",
    "the first token",
    "a further token",
    "samples in one condition",
    "a training step",
    "the training",
]
# "timed": at the default operating point, with measure.all_points at all of them.
Points = Literal["all", "timed", "default"]

_CONDITION = r"clean|garbage|unseen|[a-z]\w*_s[1-5]"  # the last: a corruption and its severity
_SLOTS = {
    "B": r"\d+",  # batch size
    "P": r"\d+",  # percentile
    "region": "|".join(REGIONS),
    "part": "params|buffers|grads|optimizer|activation",
    "condition": _CONDITION,
    # A task names its further scores itself: everything that is not taken already.
    "score": rf"(?!(?:vs_dense|{_CONDITION})$)\w+",
}


class Shown(Enum):
    """Where a metric is shown. Every metric is in table.csv and in the notebook frame as well."""

    TERMINAL = "in the table, also on a terminal"
    TERMINAL_IF = "in the table, also on a terminal, where some row has a number"
    TABLE = "in the table, except on a terminal"
    TABLE_IF = "in the table, except on a terminal, where some row has a number"
    TAILS = "in the second table of the page, where some row has a number"
    ROBUSTNESS = "in the section Robustness"
    FIGURE = "in a figure"
    REMARK = "as a remark beside the name of a row"
    BELOW = "in a line below the table"
    CSV = "in table.csv"


class SeedMean(Enum):
    """How the values of several seeds become one number."""

    PLAIN = "arithmetic mean"
    INTERVAL = "arithmetic mean with its 95 % interval"
    LOGS = "mean of logarithms with its 95 % interval"


@dataclass(frozen=True)
class Quantity:
    """A unit and the range of possible values."""

    unit: str  # "" where the task defines it
    low: float = -math.inf
    high: float = math.inf
    includes_low: bool = True  # False: `low` itself is impossible, as 0 ms is
    even: float | None = None  # of a comparison with dense: the value of no difference

    def allows(self, value: float) -> bool:
        """Whether `value` is possible."""
        is_above = value >= self.low if self.includes_low else value > self.low
        return is_above and value <= self.high


@dataclass(frozen=True)
class Entry:
    """A metric, or a family of metrics where the key has slots in braces."""

    key: str
    quantity: Quantity
    title: str  # the header of its column; may contain slots of the key
    shown: Shown = Shown.CSV
    seed_mean: SeedMean = SeedMean.PLAIN
    over: Over = field(kw_only=True)  # what one value aggregates over
    points: Points = field(kw_only=True)  # at which operating points it is measured

    @property
    def unit(self) -> str:
        """The unit in records; "" where the task defines it."""
        return self.quantity.unit

    @cached_property
    def slots(self) -> tuple[str, ...]:
        """The names in the key's braces, in order: ("region", "B")."""
        return tuple(re.findall(r"{(\w+)}", self.key))

    def at(self, *values: str | int) -> str:
        """The key with its slots filled in order. Raises ValueError for too few or too many."""
        return self._fill(self.key, values)

    def title_at(self, *values: str | int) -> str:
        """The title with the key's slots filled in order. Raises ValueError as `at` does."""
        return self._fill(self.title, values)

    def match(self, key: str) -> tuple[str, ...] | None:
        """The values of the slots in `key`, () without slots; None if `key` is another metric's."""
        found = self._pattern.fullmatch(key)
        return None if found is None else found.groups()

    def batch_sizes(self, keys: Iterable[str]) -> list[int]:
        """The batch sizes B of this family among `keys`, ascending."""
        place = self.slots.index("B")
        return sorted({int(found[place]) for key in keys if (found := self.match(key))})

    def _fill(self, text: str, values: tuple[str | int, ...]) -> str:
        return text.format(**dict(zip(self.slots, values, strict=True)))

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        # split() alternates fixed text and slot names: "infer/speedup_b", "B", "".
        fixed, *rest = re.split(r"{(\w+)}", self.key)
        pairs = zip(rest[::2], rest[1::2], strict=True)
        return re.compile(fixed + "".join(f"({_SLOTS[slot]}){after}" for slot, after in pairs))
