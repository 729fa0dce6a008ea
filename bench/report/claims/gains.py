"""What conditional computation promises at equal quality, each against the dense model.

Ratios are dense / method: above 1 the method needs less.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from bench.records.catalogue import (
    CPU_ENERGY,
    ENERGY,
    ENERGY_RATIO,
    FLOPS,
    FLOPS_BATCHED,
    LATENCY,
    PEAK_BYTES,
    QUALITY_VS_DENSE,
    SPEEDUP,
    TRAIN_PEAK_BYTES,
    module_key,
)
from bench.report.claims.case import Case, by_seed, counted_ratio, interval_of, reason_of
from bench.report.claims.outcome import (
    Answer,
    Claim,
    Outcome,
    claim_at_equal_quality,
    claim_of_difference,
    not_measured,
)
from bench.report.tables.numbers import number
from bench.statistics.intervals import Interval

MUCH = 1.3  # the "30 % and more" of the literature, as a ratio of times
COMPUTE = Claim("less_compute", "less compute", "fewer executed FLOPs than dense, padding included")
FASTER = Claim("faster", "faster", "less time than dense in alternating rounds")
MUCH_FASTER = Claim("faster_30", "30 % faster", f"a speed-up of {MUCH:g} or more")
REAL_TIME = Claim(
    "real_time",
    "real time",
    "a lower p99 of latency than dense, whose own p99 is the deadline (two trials, batch 1)",
)
LESS_ENERGY = Claim("less_energy", "less energy", "less energy per sample than dense")
MEMORY = Claim("less_memory", "less memory", "a lower peak of live tensors at inference than dense")
TRAIN_MEMORY = Claim(
    "less_training_memory", "less training memory", "a lower peak in a training step than dense"
)
QUALITY = Claim(
    "better_quality",
    "better quality",
    "better than dense on the test split; no where a gain above the tolerance is excluded",
)
Asked = Iterator[tuple[Claim, int | None, Outcome]]
NO_DENSE = "no finished trial of dense beside it"


def gains(case: Case) -> Asked:
    """Every claim of a gain, at each timed batch size where it depends on one."""
    for claim, ask in ((COMPUTE, _compute), (FASTER, _faster), (MUCH_FASTER, _much_faster)):
        for size in case.sizes:
            yield claim, size, ask(case, size)
    yield REAL_TIME, 1, _real_time(case)
    yield LESS_ENERGY, case.sizes[-1], _energy(case)
    for size in case.sizes:
        yield MEMORY, size, _memory(case, size)
    yield TRAIN_MEMORY, None, _counted(case, TRAIN_PEAK_BYTES.key)
    yield QUALITY, None, _quality(case)


def speed(case: Case, size: int | None, least: float = 1.0) -> Outcome:
    """Whether the row is `least` times as fast as dense while it keeps quality."""
    cell = None if size is None else case.row.cells.get(SPEEDUP.at(size))
    if cell is None or cell.value is None:
        return not_measured("not timed" if cell is None else reason_of(cell))
    found = interval_of(cell)
    return claim_at_equal_quality(found, case.quality, least=least, noise=case.noise(size))


def _faster(case: Case, size: int | None) -> Outcome:
    return _with_other_points(case, lambda each: speed(each, size))


def _much_faster(case: Case, size: int | None) -> Outcome:
    return _with_other_points(case, lambda each: speed(each, size, MUCH))


def _with_other_points(case: Case, ask: Callable[[Case], Outcome]) -> Outcome:
    """The chosen point's answer; other points that say yes are named, and change nothing."""
    own = ask(case)
    same = (case.row.method, case.row.variant)
    others = [row for row in case.table.rows if row.point and (row.method, row.variant) == same]
    # Picked by the very data that they would be reported on.
    better = [row.settings for row in others if ask(case.of(row)).answer is Answer.YES]
    if own.answer is Answer.YES or not better:
        return own
    found = f"yes at {' and at '.join(better)}, which only the test data would choose"
    return own.with_note(after=found)


def _compute(case: Case, size: int | None) -> Outcome:
    return _counted(case, FLOPS.key if size is None else FLOPS_BATCHED.at(size))


def _memory(case: Case, size: int | None) -> Outcome:
    if size is None:
        return not_measured("no batch size was measured")
    return _counted(case, PEAK_BYTES.at(size))


def _counted(case: Case, key: str) -> Outcome:
    """A count of dense over that of the method, at equal quality."""
    if case.dense is None:
        return not_measured(NO_DENSE)
    found = counted_ratio(by_seed(case.dense_trials, key), by_seed(case.own_trials, key))
    if found is not None:
        return claim_at_equal_quality(found, case.quality)
    cells = (case.row.cells.get(key), case.dense.cells.get(key))
    missing = next((cell for cell in cells if cell is None or cell.value is None), None)
    return not_measured(reason_of(missing))


def _real_time(case: Case) -> Outcome:
    key = LATENCY.at(99)
    own, dense = (row.cells.get(key) if row else None for row in (case.row, case.dense))
    for cell in (own, dense):
        if cell is None or cell.value is None:
            return not_measured(reason_of(cell) if case.dense else NO_DENSE)
    assert own is not None
    assert dense is not None
    found = counted_ratio(by_seed(case.dense_trials, key), by_seed(case.own_trials, key))
    if len(case.row.seeds) == 1:  # order statistics of each; both at their worst
        found = _quotient(interval_of(dense), interval_of(own))
    if found is None:
        return not_measured("no seed has both latencies")
    outcome = claim_at_equal_quality(found, case.quality)
    times = f"deadline {number(dense.value or 0)} ms, own p99 {number(own.value or 0)} ms"
    return outcome.with_note(before=times)


def _quotient(over: Interval, under: Interval) -> Interval | None:
    """`over` / `under` of two trials, with the widest bounds."""
    values = (over.value, over.low, over.high, under.value, under.low, under.high)
    known = [each for each in values if each is not None and each > 0]
    if len(known) < len(values):
        return None
    value, low, high, under_value, under_low, under_high = known
    return Interval(value / under_value, low / under_high, high / under_low, 1, "order statistics")


def _energy(case: Case) -> Outcome:
    """The paired ratio of a GPU, or of its module; the quotient of two trials for a CPU."""
    cells = [case.row.cells.get(key) for key in (ENERGY_RATIO.key, module_key(ENERGY_RATIO))]
    for cell in cells:
        if cell is not None and cell.value is not None:
            return claim_at_equal_quality(interval_of(cell), case.quality)
    own, dense = (row.cells.get(CPU_ENERGY.key) if row else None for row in (case.row, case.dense))
    if own is not None and dense is not None and own.value is not None and dense.value is not None:
        found = _quotient(interval_of(dense), interval_of(own))
        if found is not None:
            return claim_at_equal_quality(found, case.quality)
    cells = [case.row.cells.get(entry.key) for entry in (ENERGY, CPU_ENERGY)]
    reasons = [reason_of(cell) for cell in cells if cell is not None]
    return not_measured("; ".join(reasons) or reason_of(None))


def _quality(case: Case) -> Outcome:
    cell = case.row.cells.get(QUALITY_VS_DENSE.key)
    if cell is not None and cell.value is not None:
        tolerance, unit = case.quality.tolerance, case.quality.unit
        return claim_of_difference(interval_of(cell), case.direction, tolerance, unit)
    return _without_interval(case, "" if cell is None else reason_of(cell))


def _without_interval(case: Case, reason: str) -> Outcome:
    """The plain difference of two scores, which decides nothing."""
    dense = case.dense.quality_by_seed if case.dense is not None else {}
    shared = sorted(case.row.quality_by_seed.keys() & dense.keys())
    if reason or not shared:
        return not_measured(reason or "no quality, or none of dense")
    differences = [case.row.quality_by_seed[seed] - dense[seed] for seed in shared]
    value = sum(differences) / len(differences)
    found = Interval(value, None, None, len(shared), "none", "no interval in the record")
    return claim_of_difference(found, case.direction, case.quality.tolerance, case.quality.unit)
