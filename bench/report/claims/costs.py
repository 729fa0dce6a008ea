"""What conditional computation costs: routing, training, spread over seeds, batch, deployment."""

from __future__ import annotations

import math

from bench.records.catalogue import (
    DENSE_TIME,
    FLOPS,
    REGION_FLOPS,
    REGION_TIME,
    TRAIN_FLOPS,
    TRAIN_STEPS,
    TRAIN_TIME,
    TRAIN_TOTAL,
)
from bench.records.reading import Found, profile
from bench.report.claims.case import Case, by_seed, counted_ratio, is_dense
from bench.report.claims.gains import NO_DENSE, Asked
from bench.report.claims.outcome import Answer, Claim, Outcome, not_measured
from bench.report.tables.numbers import number
from bench.report.tables.robustness import SAME
from bench.report.tables.untrusted import entry_of, listed, names_of, number_of
from bench.routing import GATE_REGIONS
from bench.statistics.intervals import LEVEL, Interval, mean_interval

LARGE_SHARE = 0.10  # from here on an overhead counts as one
MOVING = ("dispatch", "combine")  # regions that only conditional models have
ROUTING_TIME = Claim(
    "routing_time",
    "routing time",
    f"{LARGE_SHARE:.0%} of the time or more in gates, exit heads, dispatch and combine",
    "cost",
)
ROUTING_FLOPS = Claim(
    "routing_flops",
    "routing FLOPs",
    f"{LARGE_SHARE:.0%} of the executed FLOPs or more in gates and exit heads",
    "cost",
)
TRAINING = Claim(
    "more_training",
    "more training",
    "more FLOPs of training than dense, a dense pre-training included",
    "cost",
)
SEEDS = Claim(
    "unstable", "spread over seeds", "quality varies more over seeds than dense's (F test)", "cost"
)
BATCH = Claim(
    "batch_dependent",
    "batch dependence",
    "the output of a sample depends on the others in its batch, as the method declares",
    "cost",
)
COMPILE = Claim("not_compiled", "compile", "torch.compile breaks the graph, or refuses", "cost")
EXPORT = Claim("not_exported", "export", "torch.export refuses", "cost")


def costs(case: Case) -> Asked:
    """Every cost; of a model that is dense itself, training and spread alone."""
    if not is_dense(case.row):
        for size in case.sizes:
            yield ROUTING_TIME, size, _routing_time(case, size)
        yield ROUTING_FLOPS, None, _routing_flops(case)
    yield TRAINING, None, _training(case)
    yield SEEDS, None, _spread(case)
    if not is_dense(case.row):
        declared = Answer.YES if case.row.depends_on_batch else Answer.NO
        yield BATCH, None, Outcome(declared)
        yield COMPILE, None, _deployed(case, "compile")
        yield EXPORT, None, _deployed(case, "export")


def _routing_time(case: Case, size: int | None) -> Outcome:
    if size is None:
        return not_measured("not timed")
    regions = (*GATE_REGIONS, *MOVING)
    parts = {name: by_seed(case.own_trials, REGION_TIME.at(name, size)) for name in regions}
    return _share(parts, "no time in regions of routing is in the record")


def _routing_flops(case: Case) -> Outcome:
    whole = by_seed(case.own_trials, FLOPS.key)
    parts = {}
    for name in GATE_REGIONS:
        counts = by_seed(case.own_trials, REGION_FLOPS.at(name))
        parts[name] = {s: count / whole[s] for s, count in counts.items() if whole.get(s)}
    return _share(parts, "no FLOPs in regions of routing are in the record")


def _share(parts: dict[str, dict[int, float]], reason: str) -> Outcome:
    """The sum of the regions that a method has, per seed, as a share of the whole."""
    present = {name: shares for name, shares in parts.items() if shares}
    seeds = sorted(set.intersection(*map(set, present.values()))) if present else []
    if not seeds:
        return not_measured(reason)
    sums = [100 * math.fsum(shares[seed] for shares in present.values()) for seed in seeds]
    by_region = ", ".join(
        f"{name.replace('_', ' ')} {100 * math.fsum(shares[s] for s in seeds) / len(seeds):.3g} %"
        for name, shares in present.items()
    )
    found = mean_interval(sums)
    bounds = (found.low, found.high) if len(sums) > 1 else (None, None)
    return Outcome(_against(found, 100 * LARGE_SHARE), found.value, *bounds, "%", by_region)


def _against(found: Interval, limit: float) -> Answer:
    """Yes from `limit` up, undecided where the interval contains it; by the value without one."""
    value = found.value or 0.0
    low = value if found.low is None else found.low
    high = value if found.high is None else found.high
    if low >= limit:
        return Answer.YES
    return Answer.NO if high < limit else Answer.UNDECIDED


def _training(case: Case) -> Outcome:
    if case.dense is None:
        return not_measured(NO_DENSE)
    dense = _training_flops(case.dense_trials)
    own = _training_flops(case.own_trials)
    whole = by_seed(case.own_trials, TRAIN_TOTAL.key)
    # A method that starts from dense needs that training as well, though others share it. Records
    # without a total are of starts that the dense row is.
    for seed in by_seed(case.own_trials, DENSE_TIME.key).keys() - whole.keys():
        own[seed] = own[seed] + dense[seed] if seed in own and seed in dense else math.nan
    own |= whole
    found = counted_ratio({s: flops for s, flops in own.items() if flops == flops}, dense)
    if found is None:
        return not_measured("no FLOPs of a training step of both are in the record")
    answer = _against(found, 1 + SAME)
    return Outcome(answer, found.value, found.low, found.high, "x", _seconds(case))


def _training_flops(trials: list[Found]) -> dict[int, float]:
    """FLOPs of a step times steps; 0 where no step was taken."""
    steps, flops = (by_seed(trials, entry.key) for entry in (TRAIN_STEPS, TRAIN_FLOPS))
    return {
        seed: count * flops.get(seed, 0.0)
        for seed, count in steps.items()
        if count == 0 or seed in flops
    }


def _seconds(case: Case) -> str:
    times = [case.row.value(TRAIN_TIME.key), case.row.value(DENSE_TIME.key)]
    times += [case.dense.value(TRAIN_TIME.key) if case.dense is not None else None]
    own, before, dense = (None if each is None else f"{number(each)} s" for each in times)
    if own is None:
        return ""
    after = f" after {before} of dense" if before else ""
    return f"{own}{after}" + (f"; dense {dense}" if dense else "")


def _spread(case: Case) -> Outcome:
    """Standard deviations over seeds, method / dense, by the F distribution."""
    own = list(case.row.quality_by_seed.values())
    dense = list(case.dense.quality_by_seed.values()) if case.dense is not None else []
    fewest = min(len(own), len(dense))
    if fewest < 2:
        return not_measured("fewer than two seeds of the method or of dense")
    spreads = [_sd(own), _sd(dense)]
    if min(spreads) <= 0:
        return Outcome(Answer.UNDECIDED, note="equal in all seeds: no spread is seen")
    value = spreads[0] / spreads[1]
    low, high = (value / math.sqrt(_f_quantile(p, len(own) - 1, len(dense) - 1)) for p in _TAILS)
    answer = Answer.YES if low > 1 else Answer.NO if high < 1 else Answer.UNDECIDED
    both = f"standard deviation {number(spreads[0])}, dense {number(spreads[1])}"
    return Outcome(answer, value, low, high, "x", f"{both}, {fewest} seeds")


_TAILS = ((1 + LEVEL) / 2, (1 - LEVEL) / 2)  # the upper quantile gives the lower bound


def _sd(values: list[float]) -> float:
    mean = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((each - mean) ** 2 for each in values) / (len(values) - 1))


def _f_quantile(probability: float, over: int, under: int) -> float:
    from scipy.special import fdtri

    return float(fdtri(over, under, probability))


def _deployed(case: Case, name: str) -> Outcome:
    """Whether a compiler refused; the first seed stands for all, which share one program."""
    found = case.own_trials[0].record if case.own_trials else None
    deployed = entry_of(found.diagnostics.get("deployability")) if found is not None else {}
    entry, reason = deployed.get(name), deployed.get(f"{name}_reason")
    if found is None or not isinstance(reason, str | None) or (entry is None and not reason):
        return not_measured("not in the record")
    if entry is None:
        # The profile leaves it out; any other reason is the compiler's own.
        left_out = profile(found) == "quick"
        return not_measured(reason or "") if left_out else Outcome(Answer.YES, note=reason or "")
    breaks = number_of(entry_of(entry).get("num_graph_breaks")) or 0.0
    if name == "export":
        return Outcome(Answer.NO, note="with a fixed batch size")
    why = listed(names_of(entry_of(entry).get("break_reasons")))
    answer = Answer.YES if breaks else Answer.NO
    return Outcome(answer, breaks, unit="graph breaks", note=why)
