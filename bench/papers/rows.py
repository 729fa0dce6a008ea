"""The rows of conf/experiment/paper/published.csv: published numbers, and how each is counted.

id           unique; begins with the model
paper        which experiment counts it: conf/experiment/paper/NAME.yaml
model, quantity
published    as printed: its digits decide the verdict, and it is never altered
unit         of `published`, such as GMAC or "M params"
convention   MAC or FLOP as the source counts them, and what it includes
input        the size of one input
trial        what `condbench run` gets to count it, such as "backbone=resnet56"; "" for a
             closed form
point        the operating point that it is about, such as "width=0.5"; "" for the default
counted      the quantity in terms of the record's counts (COUNTS), or a closed form; "" where
             nothing can be counted
surcharge    what `counted` adds for the source's own counter, in words
digits       "rounded", or "truncated" where the source cuts digits off
remark       why a row is CLOSE, OFF or NOT COMPARABLE
evidence, source
"""

from __future__ import annotations

import csv
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable

from bench.papers.arithmetic import names_in

# Names in `counted`, and the metric of the record that each stands for. MACs are half the FLOPs.
COUNTS = {
    "params": "model/params",
    "flops": "infer/flops_per_sample",
    "causal_flops": "infer/flops_causal",
    "router_flops": "infer/flops_router",
}
DERIVED = {"macs": ("flops", Fraction(1, 2))}
SCALES = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
UNITS = {
    **{f"{p} params".strip(): s for p, s in SCALES.items()},
    **{f"{prefix}{base}": s for base in ("MAC", "FLOP", "B") for prefix, s in SCALES.items()},
    "x dense": 1,
}
DIGITS = ("rounded", "truncated")
PUBLISHED = "conf/experiment/paper/published.csv"


@dataclass(frozen=True)
class Row:
    """One published number; the fields are the columns of the file. Raises ValueError."""

    id: str
    paper: str
    model: str
    quantity: str
    published: str
    unit: str
    convention: str
    input: str
    trial: str
    point: str
    counted: str
    surcharge: str
    digits: str
    remark: str
    evidence: str
    source: str

    def __post_init__(self) -> None:
        for name in ("id", "paper", "model", "quantity", "published", "convention", "source"):
            if not getattr(self, name):
                raise ValueError(f"{self.id or 'a row'}: {name} is empty")
        if self.unit not in UNITS:
            raise ValueError(f"{self.id}: unit {self.unit!r}: one of {', '.join(UNITS)}")
        if self.digits not in DIGITS:
            raise ValueError(f"{self.id}: digits {self.digits!r}: one of {', '.join(DIGITS)}")
        if not self.counted and not self.remark:
            raise ValueError(f"{self.id}: nothing is counted, and no remark gives the reason")
        if unknown := sorted({*self.counts} - {*COUNTS, *DERIVED}):
            raise ValueError(f"{self.id}: counted: no count {', '.join(unknown)}")
        # A trial that nothing reads would run for nothing.
        if bool(self.counts) != bool(self.trial):
            raise ValueError(f"{self.id}: a trial and a count of its record go together")

    @property
    def scale(self) -> int:
        """How many of the base unit one of `unit` is."""
        return UNITS[self.unit]

    @property
    def counts(self) -> Sequence[str]:
        """The counts that the row needs of a record; () for a closed form."""
        return tuple(names_in(self.counted)) if self.counted else ()

    @property
    def overrides(self) -> list[str]:
        """`trial` as override strings."""
        return shlex.split(self.trial)


@cache
def read_rows() -> tuple[Row, ...]:
    """All rows, in the file's order. Raises ValueError naming the row that is wrong."""
    found = tuple(_rows(files("bench.conf").joinpath("experiment", "paper", "published.csv")))
    ids = [row.id for row in found]
    if twice := sorted({each for each in ids if ids.count(each) > 1}):
        raise ValueError(f"published.csv: {', '.join(twice)} stands there twice")
    return found


def rows_of(paper: str) -> list[Row]:
    """The rows of one paper experiment. Raises ValueError where there are none."""
    found = [row for row in read_rows() if row.paper == paper]
    if not found:
        known = ", ".join(sorted({row.paper for row in read_rows()}))
        raise ValueError(f"published.csv has no row of paper {paper!r}; it has {known}")
    return found


def trials_of(paper: str) -> list[list[str]]:
    """The overrides of every trial that the rows of `paper` need, each once."""
    # A dict keeps the file's order; parameters and cost of one model are one trial.
    texts = dict.fromkeys(row.trial for row in rows_of(paper) if row.trial)
    return [shlex.split(text) for text in texts]


def _rows(path: Traversable) -> Iterator[Row]:
    reader = csv.DictReader(path.read_text(encoding="utf-8").splitlines())
    if tuple(reader.fieldnames or ()) != tuple(Row.__dataclass_fields__):
        raise ValueError(f"{path}: the columns are {', '.join(Row.__dataclass_fields__)}")
    yield from (Row(**row) for row in reader)
