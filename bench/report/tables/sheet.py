"""A table as text, without any format's markup: columns, lines, and footnotes by letter.

`text`, `latex` and `page` add the markup of their format.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from bench.records.catalogue import DENSE_TIME, QUALITY_VS_DENSE, SPEEDUP
from bench.records.entry import Over
from bench.report.tables.answers import answer
from bench.report.tables.column import Column, column_values
from bench.report.tables.columns import table_columns, tail_columns
from bench.report.tables.numbers import Text
from bench.report.tables.table import DENSE, Row, Table

LETTERS = "abcdefghijklmnopqrstuvwxyz"
# One training serves all operating points: what belongs to the model stands in its first row.
OF_THE_MODEL: tuple[Over, ...] = (
    *("the model", "the first input", "a process", "a training step", "the training"),
)


@dataclass(frozen=True)
class Line:
    """A row as text."""

    row: Row
    remarks: tuple[str, ...]  # "masked", "2 of 3 seeds": what limits the meaning of the row
    texts: list[Text]

    @property
    def name(self) -> str:
        """The row's full name with its remarks."""
        return self.with_remarks(self.row.name)

    @property
    def nested_name(self) -> str:
        """The same for a line below its method's: the operating point alone identifies it."""
        return self.with_remarks(self.row.point_label or self.row.name)

    def with_remarks(self, name: str, width: int | None = None) -> str:
        """`name` with its remarks in parentheses, those that fit into `width` characters."""
        for remark in self.remarks:
            longer = f"{name} ({remark})"
            if width is None or len(longer) <= width:
                name = longer
        return name


@dataclass(frozen=True)
class Sheet:
    """A table as text: columns, lines and the footnotes by letter.

    `absent` names the columns that are left out because no row has a number, with the reason.
    """

    columns: list[Column]
    lines: list[Line]
    footnotes: list[tuple[str, str]] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)


def sheet(table: Table, narrow: bool = False) -> Sheet:
    """The table as text; `narrow` keeps the columns that fit a terminal."""
    columns = table_columns(table)
    if not narrow:
        return _sheet(table, columns)
    # A terminal has no room for columns of dashes: a line below stands for each.
    columns = [column for column in columns if column.on_terminal]
    empty = [c for c in columns if c.of_row is None and not column_values(table, c.key)]
    absent = [f"{column.title}: {reason}" for column in empty for reason in _reasons(table, column)]
    return replace(_sheet(table, [c for c in columns if c not in empty]), absent=absent)


def _reasons(table: Table, column: Column) -> list[str]:
    """Why no row has a number of a column, each reason once."""
    cells = [row.cells.get(column.key) for row in table.rows if not row.point]
    found = dict.fromkeys(reason for cell in cells if cell for reason in cell.reasons)
    return list(found) or ["not in the records"]


def tails(table: Table) -> Sheet | None:
    """How costs spread over inputs: percentiles of latency and FLOPs, throughput.

    None where no row has a number. A percentile that needs more inputs than any row measured has
    no column.
    """
    columns = tail_columns(table)
    return _sheet(table, columns) if columns else None


def _sheet(table: Table, columns: list[Column]) -> Sheet:
    letters: dict[str, str] = {}  # reason -> letter, shared by all cells of the table
    lines = [
        Line(row, _remarks(table, row), [_text(table, column, row, letters) for column in columns])
        for row in table.rows
    ]
    return Sheet(columns, lines, [(letter, why) for why, letter in letters.items()])


def _remarks(table: Table, row: Row) -> tuple[str, ...]:
    # A row of fewer seeds than the table has lost trials, which failed or were not run.
    few = len(row.seeds) < len(table.seeds)
    count = (f"{len(row.seeds)} of {len(table.seeds)} seeds",) if few else ()
    return count + row.remarks


def _pays(table: Table, column: Column, row: Row) -> bool:
    """Whether the row's speed-up in this column is one at equal quality."""
    found = answer(table, row, int((SPEEDUP.match(column.key) or ("0",))[0]))
    return found is not None and found.verdict == "pays"


def _text(table: Table, column: Column, row: Row, letters: dict[str, str]) -> Text:
    """A cell with a footnote letter for every reason why something is missing in it."""
    if column.of_row is not None:
        found = column.of_row(row) or Text("")
        return replace(found, marks=footnote_letters([found.doubt] * bool(found.doubt), letters))
    cell = row.cells.get(column.key)
    # Blank is not missing: a dash always has a footnote with the reason.
    if cell is None and _is_blank(column, row):
        return Text("")
    if cell is None:
        where = "measured at this operating point" if row.point else "in the record"
        return Text("-", marks=footnote_letters([f"not {where}"], letters))
    if cell.value is None:
        return Text("-", marks=footnote_letters(cell.reasons, letters))
    # The number is a mean over the other seeds: it must not look like one over all of them.
    reasons = [f"{cell.num_seeds} of {len(row.seeds)} seeds: {why}" for why in cell.reasons]
    text = column.write(cell)
    if column.entry is SPEEDUP and text.verdict == "better" and not _pays(table, column, row):
        text = replace(text, verdict="")  # faster at the cost of quality, or an upper bound
    return replace(text, marks=footnote_letters(reasons + [text.doubt] * bool(text.doubt), letters))


def _is_blank(column: Column, row: Row) -> bool:
    """Whether nothing is missing: dense beside itself, or the model's row has the number."""
    if row.method == DENSE and column.entry is DENSE_TIME:
        return True
    is_of_the_model = bool(row.point) and column.entry.over in OF_THE_MODEL
    return column.entry is QUALITY_VS_DENSE or is_of_the_model


def footnote_letters(reasons: Sequence[str], letters: dict[str, str]) -> str:
    """Footnote letters of `reasons`, added to `letters` where they are new.

    a to z, then 1, 2, ...: one letter per reason, however often it occurs.
    """
    for reason in reasons:
        used = len(letters)
        letter = LETTERS[used] if used < len(LETTERS) else str(used - len(LETTERS) + 1)
        letters.setdefault(reason, letter)
    return ",".join(letters[reason] for reason in reasons)
