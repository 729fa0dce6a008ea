"""Three dense models that a method has to beat, each named with its size.

    equal parameters   the dense model whose number of parameters is nearest, within NEAR
    equal FLOPs        the dense model whose executed FLOPs are nearest, within NEAR
    equal quality      the dense model of fewest FLOPs that keeps the quality of dense

Method and baseline were each timed beside dense: their ratio is that of two speed-ups.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from bench.records.catalogue import FLOPS_SHARE, PARAMS, SPEEDUP
from bench.report.claims.case import Case, is_dense, quality_difference
from bench.report.claims.gains import Asked
from bench.report.claims.outcome import (
    FASTER,
    Claim,
    Outcome,
    Quality,
    claim_at_equal_quality,
    not_measured,
)
from bench.report.tables.answers import row_loss, row_tolerance
from bench.report.tables.numbers import number
from bench.report.tables.table import DENSE, Row
from bench.statistics.intervals import Interval
from bench.statistics.verdict import Verdict, judge, loss_of

NEAR = 0.10  # relative: further apart, models are not of equal size
RULE = "faster than {} at no loss of quality against it"
EQUAL_PARAMS = Claim(
    "beats_equal_params",
    "beats dense, equal params",
    RULE.format(f"the dense model of equal parameters (within {NEAR:.0%})"),
)
EQUAL_FLOPS = Claim(
    "beats_equal_flops",
    "beats dense, equal FLOPs",
    RULE.format(f"the dense model of equal executed FLOPs (within {NEAR:.0%})"),
)
EQUAL_QUALITY = Claim(
    "beats_equal_quality",
    "beats dense, equal quality",
    "faster than the cheapest dense model that keeps the quality of dense, while keeping it too",
)


def baselines(case: Case) -> Asked:
    """The three comparisons at every timed batch size; none for a model that is dense itself."""
    if is_dense(case.row):
        return
    for claim, key, word in (
        (EQUAL_PARAMS, PARAMS.key, "parameters"),
        (EQUAL_FLOPS, FLOPS_SHARE.key, "executed FLOPs"),
    ):
        nearest, why = _nearest(case, key, word)
        for size in case.sizes:
            yield claim, size, _beside(case, nearest, size) if nearest else not_measured(why)
    cheapest = _cheapest(case)
    for size in case.sizes:
        yield EQUAL_QUALITY, size, _beside_equal(case, cheapest, size)


def _models(case: Case) -> Iterator[Row]:
    return (row for row in case.table.rows if is_dense(row) and not row.point)


def _nearest(case: Case, key: str, word: str) -> tuple[Row | None, str]:
    """The dense model nearest in a size; None, and why, where none is near."""
    own = case.row.value(key)
    sizes = [(row, row.value(key)) for row in _models(case)]
    known = [(row, size) for row, size in sizes if size is not None and size > 0]
    if own is None or not own > 0 or not known:
        return None, f"no {word} of the method or of a dense model"
    row, size = min(known, key=lambda pair: abs(math.log(pair[1] / own)))
    if abs(size / own - 1) <= NEAR:
        return row, ""
    return (
        None,
        f"no dense model within {NEAR:.0%}: {row.method_name} has {size / own:.0%} of its {word}",
    )


def _cheapest(case: Case) -> Row | None:
    """The dense model of fewest FLOPs at the quality of the whole one; None without dense."""
    if case.dense is None:
        return None
    kept = [row for row in _models(case) if row.method == DENSE or _keeps(case, row)]
    return min(kept, key=lambda row: row.value(FLOPS_SHARE.key) or math.inf)


def _keeps(case: Case, row: Row) -> bool:
    loss, tolerance = row_loss(case.table, row), row_tolerance(case.table, row)
    return judge(FASTER, loss, tolerance) is Verdict.PAYS


def _beside(case: Case, baseline: Row, size: int | None) -> Outcome:
    """Against a dense model whose quality differs: the loss is that against it."""
    difference = quality_difference(case, case.of(baseline))
    loss = None if difference is None else loss_of(difference, case.direction)
    return _compared(case, baseline, size, replace(case.quality, loss=loss))


def _beside_equal(case: Case, baseline: Row | None, size: int | None) -> Outcome:
    """Against one that keeps the quality of dense: the method is held to the same."""
    if baseline is None:
        return not_measured("no finished trial of dense beside it")
    return _compared(case, baseline, size, case.quality)


def _compared(case: Case, baseline: Row, size: int | None, quality: Quality) -> Outcome:
    found = _speed_ratio(case, baseline, size)
    if found is None:
        return not_measured(f"{_named(baseline)}: no speed-up with an interval of both")
    outcome = claim_at_equal_quality(found, quality, noise=case.noise(size))
    return replace(outcome, baseline=baseline.method_name).with_note(before=_named(baseline))


def _named(row: Row) -> str:
    """`against shrunk_dense_third, 33.9 % of dense's FLOPs`."""
    share = row.value(FLOPS_SHARE.key)
    size = "" if row.method == DENSE or share is None else f", {number(100 * share)} % of its FLOPs"
    return f"against {row.method_name}{size}"


def _speed_ratio(case: Case, baseline: Row, size: int | None) -> Interval | None:
    """How much faster the method is than the baseline; dense itself is timed in the same rounds."""
    own = _logs(case.row, size)
    if own is None or baseline.method == DENSE:
        return None if own is None else _ratio(*own)
    theirs = _logs(baseline, size)
    if theirs is None:
        return None
    # Two independent trials: half widths add in squares.
    low = math.hypot(own[0] - own[1], theirs[2] - theirs[0])
    high = math.hypot(own[2] - own[0], theirs[0] - theirs[1])
    value = own[0] - theirs[0]
    return _ratio(value, value - low, value + high)


def _ratio(value: float, low: float, high: float) -> Interval:
    return Interval(math.exp(value), math.exp(low), math.exp(high), 1, "two trials")


def _logs(row: Row, size: int | None) -> tuple[float, float, float] | None:
    """Logarithms of a speed-up and its bounds."""
    cell = None if size is None else row.cells.get(SPEEDUP.at(size))
    values = (cell.value, cell.low, cell.high) if cell is not None else ()
    known = [math.log(each) for each in values if each is not None and each > 0]
    return (known[0], known[1], known[2]) if len(known) == 3 else None
