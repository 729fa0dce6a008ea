"""The doctor's report: all findings as text or JSON, the measurable quantities, the exit code."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from itertools import groupby
from pathlib import Path

from bench.selftest.finding import Finding
from bench.selftest.gpus import examine_gpus
from bench.selftest.machine import examine_data, examine_machine
from bench.selftest.services import examine_services

MARKS = {"ok": "ok", "no": "--", "warning": "!!", "failed": "FAILED"}
# Quantity -> "part/name" of the findings that it depends on, in the order in which they decide.
NEEDS = {
    "FLOPs": ("self-test/FLOPs",),
    "memory": ("self-test/memory",),
    "time": ("self-test/noise floor", "self-test/time ratio"),
    "GPU energy": ("gpu/driver", "gpu/torch", "self-test/energy of cuda:0"),
    "CPU energy": ("machine/cpu energy",),
}
PREFIXES = {"ok": "yes", "no": "no: ", "warning": "yes, but: ", "failed": "no: "}


def examine(results: Path) -> list[Finding]:
    """All findings that need no measurement; takes a second."""
    return [*examine_machine(), *examine_gpus(), *examine_services(), *examine_data(results)]


def examine_and_test(results: Path) -> list[Finding]:
    """All findings, and the short test of the meters: at most 30 s."""
    # Imported here: it loads torch, which the findings above do not need.
    from bench.selftest.quick import self_test

    return [*examine(results), *self_test()]


def exit_code(findings: Iterable[Finding]) -> int:
    """1 if something required failed, else 0: a missing GPU is no failure."""
    return int(any(finding.status == "failed" for finding in findings))


def measurable(findings: Iterable[Finding]) -> dict[str, str]:
    """For each quantity "yes", or the reason against it."""
    seen = {f"{finding.part}/{finding.name}": finding for finding in findings}
    return {
        quantity: _verdict([seen[key] for key in keys if key in seen], complete=keys[-1] in seen)
        for quantity, keys in NEEDS.items()
    }


def _verdict(findings: list[Finding], complete: bool) -> str:
    """The first finding that is not ok decides; without the last one the result is not yes."""
    # The last finding of NEEDS is the measurement: a driver alone does not prove a counter.
    for finding in findings:
        if finding.status != "ok":
            prefix = PREFIXES[finding.status] if complete else "no: "
            return prefix + finding.text
    return "yes" if complete else "not examined"


def as_text(findings: list[Finding]) -> str:
    """Text: one line per finding by part, then the measurable quantities."""
    width = max(len(finding.name) for finding in findings)
    lines = []
    for part, group in groupby(findings, key=lambda finding: finding.part):
        lines.append(part)
        lines += [f"  {MARKS[f.status]:<6} {f.name:<{width}}  {f.text}" for f in group]
    lines.append("this machine measures")
    # 7: a mark and its space, so that the texts of both lists are aligned.
    verdicts = measurable(findings).items()
    lines += [f"  {name:<{width + 7}}  {verdict}" for name, verdict in verdicts]
    return "\n".join(lines)


def as_json(findings: list[Finding]) -> str:
    """JSON: findings, measurable quantities, exit code."""
    content = {
        "exit_code": exit_code(findings),
        "measurable": measurable(findings),
        "findings": [asdict(finding) for finding in findings],
    }
    return json.dumps(content, indent=1, allow_nan=False)
