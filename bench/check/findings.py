"""What was found about a plugin, and the report: a line per contract, as soon as it is known."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from bench.check.catalogue import BACKBONE_CONTRACTS, TASK_CONTRACTS

BUILDS, SPELLING, SHARED = "builds", "hook_names", "changes_nothing_shared"
PROMISES = {
    BUILDS: "builds on a task, or raises Unsupported with the reason",
    SHARED: "torch's functions and settings stay as they were",
    SPELLING: "every hook has its name from the contract",
    **{each.name: each.promise for each in (*BACKBONE_CONTRACTS, *TASK_CONTRACTS)},
}
Outcome = Literal["kept", "broken", "not defined"]


@dataclass(frozen=True)
class Finding:
    """One contract on one tiny task."""

    contract: str
    task: str
    outcome: Outcome
    message: str = ""
    line: str = ""  # to look at, where it is broken
    error: str = ""  # type of an exception that the method raised by itself


@dataclass
class Verdict:
    """Everything found about a method, a backbone or a task."""

    method: str
    tasks: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)  # task -> the method's reason
    stopped: list[str] = field(default_factory=list)  # tasks without further contracts
    plugin_formula_ops: set[str] = field(default_factory=set)  # FLOPs from the plugin's formulas
    time_s: float = 0.0

    @property
    def broken(self) -> list[Finding]:
        """What does not hold."""
        return [finding for finding in self.findings if finding.outcome == "broken"]

    @property
    def ok(self) -> bool:
        """Whether the method runs on some task and breaks no contract there."""
        return bool(self.findings) and not self.broken

    def lines(self) -> list[str]:
        """The whole report: one line per contract, two more where one is broken."""
        lines = self.head_lines()
        for name in dict.fromkeys(finding.contract for finding in self.findings):
            lines += self.contract_lines(name)
        return [*lines, *self.end_lines()]

    def head_lines(self) -> list[str]:
        """What is known before a contract is tried: the tasks, and which are refused."""
        lines = [f"{self.method} on {', '.join(self.tasks) or 'no task'}"]
        return lines + [f"  refuses  {task}: {reason}" for task, reason in self.refused.items()]

    def contract_lines(self, name: str) -> list[str]:
        """What one contract found; nothing where an earlier one showed the same error."""
        findings = [finding for finding in self.findings if finding.contract == name]
        head = f"{name:<22} {PROMISES[name]}"
        broken = [finding for finding in findings if finding.outcome == "broken"]
        if broken:
            return [] if name in self._repeated() else _broken_lines(head, broken)
        if any(finding.outcome == "kept" for finding in findings):
            return [f"  kept     {head}"]
        return [f"  -        {name:<22} {findings[0].message}"]

    def end_lines(self) -> list[str]:
        """What is known when all contracts were tried."""
        lines = []
        for first, others in self._by_error().items():
            if others:
                contracts = "contract" if len(others) == 1 else "contracts"
                lines.append(
                    f"  BROKEN   {first:<22} the same error in {len(others)} more {contracts}: "
                    + ", ".join(others)
                )
        if self.stopped:
            lines.append(f"  stopped  no further contract was tried on {', '.join(self.stopped)}")
        if self.plugin_formula_ops:
            ops = ", ".join(sorted(self.plugin_formula_ops))
            lines.append(f"  note     FLOPs from unverified plugin formulas: {ops}")
        return [*lines, f"  {self._summary()}: {self.time_s:.1f} s"]

    def _summary(self) -> str:
        names = dict.fromkeys(finding.contract for finding in self.findings)
        broken = {finding.contract for finding in self.broken}
        kept = {f.contract for f in self.findings if f.outcome == "kept"} - broken
        others = len(names) - len(broken) - len(kept)
        return f"{len(kept)} kept, {len(broken)} broken, {others} not applicable"

    def _by_error(self) -> dict[str, list[str]]:
        """Contracts by the first one whose first finding is the same error of the method.

        A typo raises wherever the line is reached. The messages may differ, by the shapes of the
        batch at hand; the type and the line do not.
        """
        first: dict[tuple[str, str], str] = {}
        found: dict[str, list[str]] = {}
        for name in dict.fromkeys(finding.contract for finding in self.broken):
            finding = next(each for each in self.broken if each.contract == name)
            shown = first.setdefault((finding.error, finding.line), name)
            if finding.error and shown != name:
                found[shown].append(name)
            else:
                found[name] = []
        return found

    def _repeated(self) -> set[str]:
        return {name for others in self._by_error().values() for name in others}


def _broken_lines(head: str, broken: list[Finding]) -> list[str]:
    """The first finding in full; the other tasks by name."""
    first, others = broken[0], ", ".join(finding.task for finding in broken[1:])
    return [
        f"  BROKEN   {head}",
        f"           {first.task}: {first.message}" + (f" (also {others})" if others else ""),
        f"           look at {first.line}",
    ]
