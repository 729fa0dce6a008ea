"""The doctor's report: everything looked at, in text or JSON, and the exit code."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from itertools import groupby
from pathlib import Path

from bench.selftest.finding import Finding
from bench.selftest.gpus import examine_gpus
from bench.selftest.machine import examine_data, examine_machine
from bench.selftest.surroundings import examine_services

MARKS = {"ok": "ok", "no": "--", "warning": "!!", "failed": "FAILED"}
NEEDS = {  # what a table shows: the findings that it rests on
    "FLOPs": ("self-test/FLOPs",),
    "memory": ("self-test/memory",),
    "time": ("self-test/noise floor", "self-test/time ratio"),
    "GPU energy": ("gpu/driver", "gpu/torch", "self-test/energy of cuda:0"),
    "CPU energy": ("machine/cpu energy",),
}
PREFIXES = {"ok": "yes", "no": "no: ", "warning": "yes, with doubt: ", "failed": "no: "}


def examine(results: Path) -> list[Finding]:
    """Everything that is looked at without measuring; takes a second."""
    return [*examine_machine(), *examine_gpus(), *examine_services(), *examine_data(results)]


def examine_and_test(results: Path) -> list[Finding]:
    """The whole examination: at most 30 s."""
    from bench.selftest.quick import self_test

    return [*examine(results), *self_test()]


def exit_code(findings: Iterable[Finding]) -> int:
    """1 if something failed that must work, else 0: a missing GPU is no failure."""
    return int(any(finding.status == "failed" for finding in findings))


def measurable(findings: Iterable[Finding]) -> dict[str, str]:
    """Each quantity: "yes", or why not."""
    seen = {f"{finding.part}/{finding.name}": finding for finding in findings}
    return {
        quantity: _answer([seen[key] for key in keys if key in seen], complete=keys[-1] in seen)
        for quantity, keys in NEEDS.items()
    }


def _answer(findings: list[Finding], complete: bool) -> str:
    """The first finding that is not ok decides; without the last one there is no yes."""
    for finding in findings:
        if finding.status != "ok":
            prefix = PREFIXES[finding.status] if complete else "no: "
            return prefix + finding.text
    return "yes" if complete else "not examined"


def as_text(findings: list[Finding]) -> str:
    """For a person: one line per finding by part, then what can be measured."""
    width = max(len(finding.name) for finding in findings)
    lines = []
    for part, group in groupby(findings, key=lambda finding: finding.part):
        lines.append(part)
        lines += [f"  {MARKS[f.status]:<6} {f.name:<{width}}  {f.text}" for f in group]
    lines.append("this machine measures")
    lines += [f"  {name:<{width + 7}}  {answer}" for name, answer in measurable(findings).items()]
    return "\n".join(lines)


def as_json(findings: list[Finding]) -> str:
    """For a program: findings, what can be measured, and the exit code."""
    content = {
        "exit_code": exit_code(findings),
        "measurable": measurable(findings),
        "findings": [asdict(finding) for finding in findings],
    }
    return json.dumps(content, indent=1, allow_nan=False)
