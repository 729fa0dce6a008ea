"""One verdict for the whole: judged metrics, controls, what could not be compared, exit code."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from bench.regress.gate import Judgement, Margins, family_wise_error
from bench.statistics import Interval

Outcome = Literal["ok", "regressed", "inconclusive", "void", "not comparable"]
EXIT_CODES: dict[Outcome, int] = {
    "ok": 0,
    "regressed": 1,
    "inconclusive": 3,
    "void": 3,
    "not comparable": 4,
}
UNTIMED = ("trial", "quality")  # metrics that a busy machine does not change
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Row:
    """One judged metric of one model. `ratio` is candidate / baseline, in cost: above 1 is worse.

    `rerun` is the ratio of the confirming measurement, `reason` why there is no number or doubt.
    """

    model: str  # digits/transformer/moe
    metric: str  # "time b64", "energy b64", "quality", "trial"
    judgement: Judgement
    margins: Margins | None = None
    ratio: Interval | None = None
    rerun: Interval | None = None
    unit: str = ""
    baseline: float | None = None  # absolute values, for the reader and the history
    candidate: float | None = None
    num_looks: int = 1  # at the rounds, that the gate may take: what the error adds up
    reason: str | None = None
    cause: str | None = None  # of a change: code, machine or noise, and why we think so

    @property
    def name(self) -> str:
        return f"{self.model} {self.metric}"


@dataclass
class Verdict:
    """What a comparison found."""

    baseline: str  # how a reader finds the two sides: folders or commits
    candidate: str
    hardware: str
    rows: list[Row] = field(default_factory=list)
    controls: list[Row] = field(default_factory=list)  # the A/A arm: must be equal
    canary: Row | None = None  # the fixed workload in both processes: must not differ
    differences: list[str] = field(default_factory=list)  # what is not comparable
    changes: list[str] = field(default_factory=list)  # of counts, not gated: FLOPs, parameters
    notes: list[str] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)  # to reproduce
    confirmed: bool = False  # whether suspected regressions were measured a second time
    shared_baseline: bool = False  # whether that was against the same measurement of the baseline
    canary_s: float | None = None

    @property
    def outcome(self) -> Outcome:
        """The worst that holds. Void are times and energy: a crash needs no quiet machine."""
        if any(row.judgement == "regressed" and row.metric in UNTIMED for row in self.rows):
            return "regressed"
        if not self.is_controlled:
            return "void"
        found = {row.judgement for row in self.rows}
        if "regressed" in found:
            return "regressed"
        if self.differences:
            return "not comparable"
        unsure = "inconclusive" in found or not found or not self.controls
        return "inconclusive" if unsure else "ok"

    @property
    def is_controlled(self) -> bool:
        """Whether no control says that this machine's times and energy conclude nothing."""
        equal = all(control.judgement == "equal" for control in self.controls)
        return equal and not self.canary_differs

    @property
    def canary_differs(self) -> bool:
        """Whether the machine treats the two processes differently, whatever they run."""
        return self.canary is not None and self.canary.judgement in ("regressed", "improved")

    @property
    def exit_code(self) -> int:
        return EXIT_CODES[self.outcome]

    @property
    def family_wise_error(self) -> float:
        """Bound on the chance of any false regression, see `gate.family_wise_error`."""
        most = max((row.num_looks for row in self.rows), default=1)
        # An unlucky baseline fools first run and rerun alike: such a rerun squares nothing.
        independent = self.confirmed and not self.shared_baseline
        return family_wise_error(len(self.rows), most, confirmed=independent)

    def named(self, judgement: Judgement) -> list[Row]:
        """The rows that were judged so."""
        return [row for row in self.rows if row.judgement == judgement]

    def content(self) -> dict[str, Any]:
        """The verdict as JSON holds it."""
        plain = asdict(self)
        plain.update(
            schema_version=SCHEMA_VERSION,
            outcome=self.outcome,
            exit_code=self.exit_code,
            family_wise_error=self.family_wise_error,
        )
        return _finite(plain)


def _finite(value: Any) -> Any:
    """`value` with null for what JSON cannot hold."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
