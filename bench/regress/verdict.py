"""One verdict for a whole comparison: rows, controls, what is not comparable, the exit code."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from bench.regress.gate import Judgement, Margins, family_wise_error
from bench.statistics import Interval

Outcome = Literal["ok", "regressed", "inconclusive", "void", "not comparable"]
EXIT_CODES: dict[Outcome, int] = {  # 2 is BadInput: there is no verdict then
    "ok": 0,
    "regressed": 1,
    "inconclusive": 3,
    "void": 3,
    "not comparable": 4,
}
# Metrics that a busy machine does not change.
UNTIMED = ("trial", "quality", "parameters", "executed FLOPs")
NO_CONTROL = "a control is not equal"  # reason of a row that is not judged
SCHEMA_VERSION = 1


class BadInput(Exception):
    """Input that no verdict can be given on; the message names it and the way out. Exit code 2."""


# The field names of Row and Verdict are the keys of verdict.json: earlier nights stay readable only
# while they do not change.


@dataclass(frozen=True)
class Row:
    """One judged metric of one model. `ratio` is candidate / baseline, in cost: above 1 is worse.

    `rerun` is the ratio of the confirming measurement, `reason` why there is no number, or doubt.
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
    num_looks: int = 1  # the most that the gate may take: the error adds up over them
    reason: str | None = None
    cause: str | None = None  # of a change: code, machine or noise, with the evidence

    @property
    def name(self) -> str:
        """ "digits/transformer/moe time b64": the key of the metric in the history."""
        return f"{self.model} {self.metric}"


@dataclass
class Verdict:
    """The result of a comparison."""

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
        """The worst outcome that holds; only times and energy can be void."""
        # Before void: a crash or a lost quality needs no quiet machine.
        if any(row.judgement == "regressed" and row.metric in UNTIMED for row in self.rows):
            return "regressed"
        if not self.is_controlled:
            # Another machine explains a control that is not equal, and cannot be repeated away.
            return "not comparable" if self.differences else "void"
        found = {row.judgement for row in self.rows}
        if "regressed" in found:
            return "regressed"
        if self.differences:
            return "not comparable"
        # No row and no control prove nothing, so they are not green either.
        unsure = "inconclusive" in found or not found or not self.controls
        return "inconclusive" if unsure else "ok"

    @property
    def is_controlled(self) -> bool:
        """Whether the controls allow conclusions from this machine's times and energy."""
        equal = all(control.judgement == "equal" for control in self.controls)
        return equal and not self.canary_differs

    @property
    def canary_differs(self) -> bool:
        """Whether the machine treats the two processes differently, whatever they run."""
        return self.canary is not None and self.canary.judgement in ("regressed", "improved")

    @property
    def exit_code(self) -> int:
        """The command's exit code."""
        return EXIT_CODES[self.outcome]

    @property
    def family_wise_error(self) -> float:
        """Bound on the chance of any false regression, see `gate.family_wise_error`."""
        num_looks = max((row.num_looks for row in self.rows), default=1)
        # An unlucky baseline misleads first run and rerun alike: the error is not squared then.
        independent = self.confirmed and not self.shared_baseline
        return family_wise_error(len(self.rows), num_looks, confirmed=independent)

    def rows_with(self, judgement: Judgement) -> list[Row]:
        """The rows with this judgement."""
        return [row for row in self.rows if row.judgement == judgement]

    def withhold_times(self) -> None:
        """Without controls no time and no energy is judged: their rows become inconclusive."""
        if self.is_controlled:
            return
        self.rows = [
            row
            if row.metric in UNTIMED
            else replace(row, judgement="inconclusive", reason=NO_CONTROL)
            for row in self.rows
        ]

    def content(self) -> dict[str, Any]:
        """The verdict as verdict.json holds it."""
        plain = asdict(self)
        # Derived values too, so that a reader of the file needs none of these rules.
        plain.update(
            schema_version=SCHEMA_VERSION,
            outcome=self.outcome,
            exit_code=self.exit_code,
            family_wise_error=self.family_wise_error,
        )
        return _json_safe(plain)


def _json_safe(value: Any) -> Any:
    """`value` with null for numbers that strict JSON cannot hold: NaN and infinity."""
    if isinstance(value, dict):
        return {key: _json_safe(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_json_safe(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
