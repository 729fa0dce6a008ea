"""Trying every contract on every tiny task, and saying what came out."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from bench.check.candidate import Candidate, candidates
from bench.check.contracts import CONTRACTS, Broken, Contract, NotDefined
from bench.check.sites import error_line, gate_line
from bench.plugins import Plugin, construct

BUILDS = "builds"
Answer = Literal["kept", "broken", "not defined"]


@dataclass(frozen=True)
class Finding:
    """One contract on one tiny task."""

    contract: str
    task: str
    answer: Answer
    message: str = ""
    line: str = ""  # to look at, where it is broken


@dataclass
class Verdict:
    """Everything found about a method."""

    method: str
    findings: list[Finding] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)  # task -> the method's reason
    told_ops: set[str] = field(default_factory=set)  # whose FLOPs rest on the plugin's word
    time_s: float = 0.0

    @property
    def broken(self) -> list[Finding]:
        """What does not hold."""
        return [finding for finding in self.findings if finding.answer == "broken"]

    @property
    def ok(self) -> bool:
        """Whether the method runs on some task and breaks no contract there."""
        return bool(self.findings) and not self.broken

    def lines(self) -> list[str]:
        """The verdict for people: one line per contract, and two more where one is broken."""
        tasks = dict.fromkeys(finding.task for finding in self.findings)
        lines = [f"{self.method} on {', '.join(tasks) or 'no task'}: {self.time_s:.1f} s"]
        lines += [f"  refuses  {task}: {reason}" for task, reason in self.refused.items()]
        for name in dict.fromkeys(finding.contract for finding in self.findings):
            lines += _contract_lines([f for f in self.findings if f.contract == name])
        if self.told_ops:
            lines.append(
                f"  note     FLOPs by the plugin's own word: {', '.join(sorted(self.told_ops))}"
            )
        return lines


def _contract_lines(findings: list[Finding]) -> list[str]:
    name = f"{findings[0].contract:<22}"
    promise = {contract.name: contract.promise for contract in CONTRACTS}
    promise[BUILDS] = "builds on a task, or raises Unsupported with the reason"
    broken = [finding for finding in findings if finding.answer == "broken"]
    if broken:
        first, others = broken[0], ", ".join(finding.task for finding in broken[1:])
        return [
            f"  BROKEN   {name} {promise[first.contract]}",
            f"           {first.task}: {first.message}" + (f" (also {others})" if others else ""),
            f"           look at {first.line}",
        ]
    if any(finding.answer == "kept" for finding in findings):
        return [f"  kept     {name} {promise[findings[0].contract]}"]
    return [f"  -        {name} {findings[0].message}"]


def check(
    plugin: Plugin,
    settings: Mapping[str, Any] = MappingProxyType({}),
    tell: Callable[[str], None] = lambda task: None,
) -> Verdict:
    """Try every contract on the method, with its defaults but for `settings`.

    `tell` hears each task. Raises BrokenPlugin where the method cannot be imported or made.
    """
    started, verdict, cls = time.perf_counter(), Verdict(plugin.name), plugin.load()
    try:
        method = construct(cls, settings)
    except Exception as error:
        with_them = "with its settings" if settings else "without settings"
        raise plugin.broken(f"{type(error).__name__} {with_them}: {error}") from error
    try:
        found, verdict.refused = candidates(plugin.name, method)
    except Exception as error:
        message, line = f"{type(error).__name__}: {error}", error_line(error, cls)
        verdict.findings.append(Finding(BUILDS, "every task", "broken", message, line))
        found = []
    for candidate in found:
        tell(candidate.task)
        verdict.findings += [attempt(contract, candidate) for contract in CONTRACTS]
        verdict.told_ops |= candidate.told_ops
    verdict.time_s = time.perf_counter() - started
    return verdict


def attempt(contract: Contract, candidate: Candidate) -> Finding:
    """Try one contract; what the method raises by itself is broken too."""
    task = candidate.task
    try:
        contract.attempt(candidate)
    except NotDefined as answer:
        return Finding(contract.name, task, "not defined", str(answer))
    except Broken as found:
        line = found.line or gate_line(candidate, found.gate)
        return Finding(contract.name, task, "broken", str(found), line)
    except Exception as error:
        message = f"{type(error).__name__}: {error}"
        return Finding(
            contract.name, task, "broken", message, error_line(error, type(candidate.method))
        )
    finally:
        candidate.at_default()  # a contract may break at another point
    return Finding(contract.name, task, "kept")
