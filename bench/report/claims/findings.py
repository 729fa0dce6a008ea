"""All claims of a table, and what they say together in a few sentences."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from bench.records.reading import Found
from bench.report.claims.baselines import EQUAL_FLOPS, EQUAL_PARAMS, EQUAL_QUALITY, baselines
from bench.report.claims.case import Case, cases, is_dense
from bench.report.claims.controls import controls
from bench.report.claims.costs import costs
from bench.report.claims.gains import COMPUTE, FASTER, MUCH_FASTER, gains
from bench.report.claims.harder import harder
from bench.report.claims.outcome import Answer, Claim, Outcome
from bench.report.tables.table import Row, Table
from bench.statistics.verdict import MARGIN


@dataclass(frozen=True)
class Finding:
    """One claim about one method at one batch size (None where it has none)."""

    row: Row
    claim: Claim
    batch_size: int | None
    outcome: Outcome
    trials: tuple[Found, ...]  # behind the row


@dataclass(frozen=True)
class Answers:
    """The answers of a table, in the order of its rows and claims."""

    table: Table
    findings: list[Finding]

    @property
    def rows(self) -> list[Row]:
        """The methods that were asked about."""
        return list({finding.row.name: finding.row for finding in self.findings}.values())


def answers(tables: Iterable[Table]) -> list[Answers]:
    """The answers of every table that has a method beside dense."""
    found = (Answers(table, [f for case in cases(table) for f in _of(case)]) for table in tables)
    return [each for each in found if each.findings]


def _of(case: Case) -> list[Finding]:
    trials = tuple(case.own_trials)
    return [
        Finding(case.row, claim, size, outcome, trials)
        for ask in (gains, harder, baselines, controls, costs)
        for claim, size, outcome in ask(case)
    ]


def overall(found: Sequence[Answers]) -> str:
    """How often it pays, over all tables: one sentence."""
    parts = []
    for claim, words in (
        (FASTER, "faster than dense at equal quality"),
        (MUCH_FASTER, "by 30 % or more"),
        (EQUAL_QUALITY, "faster than the cheapest dense model of equal quality"),
    ):
        asked = [
            f.outcome.answer
            for each in found
            for f in each.findings
            if f.claim is claim and not is_dense(f.row)  # a smaller dense model is a baseline
        ]
        known = [each for each in asked if each is not Answer.NOT_MEASURED]
        if known:
            yes, open_ = known.count(Answer.YES), known.count(Answer.UNDECIDED)
            parts.append(f"{words}: {yes} of {len(known)}, {open_} undecided")
    return ("Methods x tasks x batch sizes: " + "; ".join(parts) + ".") if parts else ""


def summary(found: Answers) -> list[str]:
    """Where it pays and where it does not: one sentence per question."""
    lines = [
        _sentence(found, FASTER, "Faster than dense at equal quality"),
        _sentence(found, MUCH_FASTER, "By 30 % or more"),
        _refused(found),
        *_undecided(found),
        _smaller(found),
        _sentence(found, EQUAL_PARAMS, "Faster than the dense model of equal parameters"),
        _sentence(found, EQUAL_FLOPS, "Faster than the dense model of equal executed FLOPs"),
        _sentence(found, EQUAL_QUALITY, "Faster than the cheapest dense model of equal quality"),
        _saves_without_time(found),
        _others(found, "gain"),
        _others(found, "cost"),
        _open(found),
    ]
    return [line for line in lines if line]


def _asked(found: Answers, claim: Claim) -> list[Finding]:
    """What is known of a claim about conditional models; smaller dense ones are baselines."""
    known = (f for f in found.findings if f.outcome.answer is not Answer.NOT_MEASURED)
    return [f for f in known if f.claim is claim and not is_dense(f.row)]


def _sentence(found: Answers, claim: Claim, words: str) -> str:
    """`Faster than dense at equal quality: early_exit (batch 1, 64), moe (batch 64).`"""
    asked = _asked(found, claim)
    if not asked:
        return ""
    names = _named(f for f in asked if f.outcome.answer is Answer.YES)
    baselines = dict.fromkeys(f.outcome.baseline for f in asked if f.outcome.baseline)
    of = f" ({' or '.join(baselines)})" if baselines else ""
    return f"{words}{of}: {', '.join(names) or 'none'}."


def _refused(found: Answers) -> str:
    names = _named(f for f in _asked(found, FASTER) if f.outcome.answer is Answer.NO)
    return f"Not faster, or at a loss of quality: {', '.join(names)}." if names else ""


def _undecided(found: Answers) -> Iterator[str]:
    """One sentence for each reason."""
    reasons: dict[str, list[Finding]] = {}
    for finding in _asked(found, FASTER):
        if finding.outcome.answer is Answer.UNDECIDED:
            reasons.setdefault(finding.outcome.note, []).append(finding)
    for why, findings in reasons.items():
        yield f"Undecided ({why}): {', '.join(_named(findings))}."


def _smaller(found: Answers) -> str:
    """Dense models that do it as well, without deciding anything."""
    dense = [f for f in found.findings if f.claim is FASTER and is_dense(f.row)]
    names = _named(f for f in dense if f.outcome.answer is Answer.YES)
    if not names:
        return ""
    return f"Smaller dense models that are faster at equal quality: {', '.join(names)}."


def _named(findings: Iterable[Finding]) -> list[str]:
    sizes: dict[str, list[int]] = {}
    for finding in findings:
        kept = sizes.setdefault(finding.row.method_name, [])
        kept += [finding.batch_size] if finding.batch_size is not None else []
    return [
        name + (f" (batch {', '.join(map(str, of))})" if of else "") for name, of in sizes.items()
    ]


def _saves_without_time(found: Answers) -> str:
    """Methods whose saving of FLOPs is no saving of time."""
    slow = {
        (f.row.name, f.batch_size)
        for f in found.findings
        # Not what timing noise or quality leaves open.
        if f.claim is FASTER
        and f.outcome.answer is Answer.NO
        and f.outcome.high is not None
        and f.outcome.high < MARGIN
    }
    saving = (f for f in _asked(found, COMPUTE) if (f.outcome.value or 0.0) > 1)
    names = _named(f for f in saving if (f.row.name, f.batch_size) in slow)
    return f"Fewer FLOPs than dense without a gain in time: {', '.join(names)}." if names else ""


def _others(found: Answers, kind: str) -> str:
    """The remaining claims that hold: what else is gained, or what it costs."""
    covered = {COMPUTE, FASTER, MUCH_FASTER, EQUAL_PARAMS, EQUAL_FLOPS, EQUAL_QUALITY}
    claims = dict.fromkeys(f.claim for f in found.findings if f.claim.kind == kind)
    parts = []
    for claim in (each for each in claims if each not in covered):
        names = _named(f for f in _asked(found, claim) if f.outcome.answer is Answer.YES)
        parts += [f"{claim.title}: {', '.join(names)}"] if names else []
    word = "Also gained" if kind == "gain" else "Costs"
    return f"{word}: {'; '.join(parts)}." if parts else ""


def _open(found: Answers) -> str:
    """Claims that nothing in these records answers, by reason."""
    reasons: dict[str, list[str]] = {}
    for claim in dict.fromkeys(finding.claim for finding in found.findings):
        asked = [f.outcome for f in found.findings if f.claim is claim]
        if all(outcome.answer is Answer.NOT_MEASURED for outcome in asked):
            # The first clause: what stands behind the colon differs from method to method.
            why = dict.fromkeys(outcome.note.partition(": ")[0] for outcome in asked)
            reasons.setdefault(" or ".join(why), []).append(claim.title)
    parts = [f"{', '.join(titles)} ({why})" for why, titles in reasons.items()]
    return f"Not measured: {'; '.join(parts)}." if parts else ""
