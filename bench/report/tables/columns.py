"""What a reader sees: columns with units, numbers as text, ties that look like ties, footnotes.

A `Sheet` is a table as text, still without any format's markup; `text`, `latex` and `page` add it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from bench.records.record import quality_key
from bench.report.tables.cells import Cell
from bench.report.tables.numbers import Text, difference, plain, ratio
from bench.report.tables.rows import DENSE, QUALITY, VS_DENSE, Row, Table

Prefixes = Sequence[tuple[float, str]]
SPEEDUP = re.compile(r"infer/speedup_b(\d+)$")
HEADLINE_BATCHES = (1, 64)
LETTERS = "abcdefghijklmnopqrstuvwxyz"
SI = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""), (1e-3, "m"), (1e-6, "u"))
BINARY = ((2.0**30, "GiB"), (2.0**20, "MiB"), (2.0**10, "KiB"), (1.0, "B"))
SECONDS = ((1.0, "s"),)
PERCENT = ((0.01, "%"),)
CPU_ENERGY = "infer/cpu_energy_j_per_sample"
ACTIVE, FVCORE = "model/active_params_per_sample", "infer/macs_fvcore"
RESIDENT = "infer/peak_rss_bytes"
TOKEN_ENERGY = "infer/energy_j_per_output_token"
CPU_TOKEN_ENERGY = "infer/cpu_energy_j_per_output_token"
ENERGY_RATIO = "infer/energy_ratio"
OPTIONAL = (
    CPU_ENERGY,
    CPU_TOKEN_ENERGY,
    ENERGY_RATIO,
    ACTIVE,
    FVCORE,
    RESIDENT,
    "train/energy_j",
    "train/dense_time_s",
    VS_DENSE,
)
OF_THE_MODEL = (  # one training serves all operating points
    *("model/params", ACTIVE, FVCORE, RESIDENT, "train/peak_tensor_bytes", "train/energy_j"),
    *("train/time_s", "train/dense_time_s"),
)


@dataclass(frozen=True)
class Column:
    """A metric as a column; `title` and `unit` make the header."""

    title: str
    unit: str
    key: str
    write: Callable[[Cell], Text]
    narrow: bool = True  # also on a terminal

    @property
    def header(self) -> str:
        """Title and unit in one line: `memory b64 (MiB)`."""
        return self.title + (f" ({self.unit})" if self.unit else "")

    @property
    def header_lines(self) -> tuple[str, str, str]:
        """The same in three lines: `memory`, `b64`, `(MiB)`."""
        first, _, second = self.title.partition(" ")
        return first, second, f"({self.unit})" if self.unit else ""


@dataclass(frozen=True)
class Line:
    """A row as text."""

    row: Row
    remarks: tuple[str, ...]  # "masked", "padded", "2 of 3 seeds": what a reader must not overlook
    texts: list[Text]

    @property
    def name(self) -> str:
        """The row's full name with its remarks."""
        return " ".join([self.row.name, *(f"({remark})" for remark in self.remarks)])

    @property
    def nested_name(self) -> str:
        """The same where an operating point stands below its method: its settings suffice."""
        return self.name.removeprefix(self.row.method_name + " ") if self.row.point else self.name


@dataclass(frozen=True)
class Sheet:
    """A table as text: columns, lines and the footnotes by letter."""

    columns: list[Column]
    lines: list[Line]
    footnotes: list[tuple[str, str]] = field(default_factory=list)


def sheet(table: Table, narrow: bool = False, columns: Sequence[Column] | None = None) -> Sheet:
    """The table as text; `narrow` keeps the columns that fit a terminal."""
    chosen = _columns(table) if columns is None else columns
    columns = [column for column in chosen if column.narrow or not narrow]
    letters: dict[str, str] = {}
    lines = [
        Line(row, _remarks(table, row), [_text(column, row, letters) for column in columns])
        for row in table.rows
    ]
    return Sheet(columns, lines, [(letter, why) for why, letter in letters.items()])


def _remarks(table: Table, row: Row) -> tuple[str, ...]:
    few = len(row.seeds) < len(table.seeds)
    count = (f"{len(row.seeds)} of {len(table.seeds)} seeds",) if few else ()
    return count + row.remarks


def headline_batches(table: Table) -> list[int]:
    """Batch sizes with columns of their own: 1 and 64, or else the smallest and the largest."""
    found = {
        int(m.group(1)) for row in table.rows for key in row.cells if (m := SPEEDUP.match(key))
    }
    if found >= set(HEADLINE_BATCHES):
        return list(HEADLINE_BATCHES)
    return sorted({min(found), max(found)}) if found else []


def _text(column: Column, row: Row, letters: dict[str, str]) -> Text:
    """A cell with a footnote letter for every reason why something is missing in it."""
    cell = row.cells.get(column.key)
    if cell is None and _is_blank(column.key, row):
        return Text("")
    if cell is None:
        where = "measured at this operating point" if row.point else "in the record"
        return Text("-", marks=footnote_letters([f"not {where}"], letters))
    if cell.value is None:
        return Text("-", marks=footnote_letters(cell.reasons, letters))
    reasons = [f"{cell.num_seeds} of {len(row.seeds)} seeds: {why}" for why in cell.reasons]
    text = column.write(cell)
    if row.is_ceiling and text.verdict == "better":
        text = replace(text, verdict="")  # no result, so no win
    return replace(text, marks=footnote_letters(reasons + [text.doubt] * bool(text.doubt), letters))


def _is_blank(key: str, row: Row) -> bool:
    """Whether nothing is missing: dense compared with itself, or a model's training told twice."""
    if row.method == DENSE and key == "train/dense_time_s":
        return True
    return key == VS_DENSE or (bool(row.point) and key in OF_THE_MODEL)


def footnote_letters(reasons: Sequence[str], letters: dict[str, str]) -> str:
    """Footnote letters of `reasons`: one letter per reason, however often it is needed."""
    for reason in reasons:
        used = len(letters)
        letter = LETTERS[used] if used < len(LETTERS) else str(used - len(LETTERS) + 1)
        letters.setdefault(reason, letter)
    return ",".join(letters[reason] for reason in reasons)


def _columns(table: Table) -> list[Column]:
    batches = headline_batches(table)
    largest = max(batches, default=1)
    inference = f"infer/peak_tensor_bytes_b{largest}"
    columns = [
        scaled(table, "params", "model/params", SI),
        scaled(table, "params active", ACTIVE, SI, narrow=False),
        *_quality(table),
        Column("vs dense", "", VS_DENSE, difference, narrow=False),
        scaled(table, "FLOPs", "infer/flops_per_sample", SI, "/sample", narrow=False),
        scaled(table, "MACs fvcore", FVCORE, SI, "/sample", narrow=False),
        scaled(table, "of dense", "infer/flops_share", PERCENT),
        *(_speedup(table, n) for n in batches),
        *(
            Column(f"realised b{n}", "", f"infer/realised_b{n}", plain, narrow=n == largest)
            for n in batches
        ),
        *_per_token(table, batches),
        scaled(table, f"memory b{largest}", inference, BINARY),
        scaled(table, "memory process", RESIDENT, BINARY, narrow=False),
        scaled(table, "memory train", "train/peak_tensor_bytes", BINARY),
        scaled(table, "energy /sample", "infer/energy_j_per_sample", SI, "J", spread=True),
        Column("energy ratio", "x", ENERGY_RATIO, ratio, narrow=False),
        scaled(table, "energy CPU/sample", CPU_ENERGY, SI, "J", spread=True),
        scaled(table, "energy train", "train/energy_j", SI, "J", narrow=False),
        scaled(table, "train time", "train/time_s", SECONDS),
        scaled(table, "dense start", "train/dense_time_s", SECONDS, narrow=False),
    ]
    return [c for c in columns if c.key not in OPTIONAL or _values(table, c.key)]


def _speedup(table: Table, batch: int) -> Column:
    """Dense time / method time; a difference that a model also has from itself claims nothing."""
    floor = table.noise_floors.get(f"b{batch}")

    def write(cell: Cell) -> Text:
        text = ratio(cell)
        claims = text.verdict in ("better", "worse") and cell.value is not None
        if floor is None or not claims or abs((cell.value or 1.0) - 1) > floor.value:
            return text
        doubt = f"within the noise: the same model differs from itself by up to {floor.value:.1%}"
        return replace(text, verdict="", doubt=doubt)

    return Column(f"speed-up b{batch}", "x", f"infer/speedup_b{batch}", write)


def _per_token(table: Table, batches: Sequence[int]) -> list[Column]:
    """What only generating has: columns where some row has the metric, with a number or not."""
    columns: list[Column] = []
    for title, name in (("TTFT", "ttft"), ("TPOT", "tpot")):
        columns += [_time(f"{title} b{n}", f"infer/{name}_ms_b{n}") for n in batches]
        columns += [
            Column(f"{title} speed-up b{n}", "x", f"infer/{name}_speedup_b{n}", ratio, narrow=False)
            for n in batches
        ]
    for title, name, prefixes in (("FLOPs", "flops", SI), ("memory", "bytes", BINARY)):
        columns += [
            scaled(table, f"{title} /token b{n}", key, prefixes, narrow=False)
            for n in batches
            for key in (f"infer/{name}_per_output_token_b{n}",)
        ]
    columns += [
        scaled(table, f"energy {title}", key, SI, "J", narrow=False, spread=True)
        for title, key in (("/token", TOKEN_ENERGY), ("CPU/token", CPU_TOKEN_ENERGY))
    ]
    return [column for column in columns if any(column.key in row.cells for row in table.rows)]


def _time(title: str, key: str) -> Column:
    return Column(title, "ms", key, partial(plain, spread=True), narrow=title.startswith("TPOT"))


def _values(table: Table, key: str) -> list[float]:
    cells = [row.cells[key] for row in table.rows if key in row.cells]
    return [cell.value for cell in cells if cell.value is not None]


def scaled(
    table: Table,
    title: str,
    key: str,
    prefixes: Prefixes,
    unit: str = "",
    *,
    narrow: bool = True,
    spread: bool = False,
) -> Column:
    """A column in one unit for all rows: the largest prefix that its largest value reaches."""
    largest = max((abs(value) for value in _values(table, key)), default=1.0)
    divisor, prefix = next((pair for pair in prefixes if largest >= pair[0]), prefixes[-1])

    def write(cell: Cell) -> Text:
        return plain(_divided(cell, divisor), spread=spread)

    return Column(title, (prefix + unit).lstrip("/"), key, write, narrow)


def _divided(cell: Cell, divisor: float) -> Cell:
    value, low, high = (
        None if x is None else x / divisor for x in (cell.value, cell.low, cell.high)
    )
    return replace(cell, value=value, low=low, high=high)


def _quality(table: Table) -> list[Column]:
    """The task's quality, and its further scores by name."""
    label = table.quality
    arrow = {"higher": " \u2191", "lower": " \u2193"}.get(label.direction if label else "", "")
    write = partial(plain, digits=4, spread=True)
    unit = _unit(table, QUALITY)
    columns = [Column((unit or "quality") + arrow, "", QUALITY, write)]
    for name in label.more if label else ():
        key = quality_key(name)
        further = _unit(table, key)
        shown = "" if further == name else further
        columns.append(Column(name + arrow, shown, key, write, narrow=False))
    return columns


def _unit(table: Table, key: str) -> str:
    """The unit of a metric in this table; "" where it has none."""
    unit = next((row.cells[key].unit for row in table.rows if key in row.cells), "1")
    return "" if unit == "1" else unit
