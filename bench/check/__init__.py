"""The conformance kit: does a method keep the promises of docs/reference/contract.md?

    verdict = check(find("method", "my_gate"))
    verdict.ok, verdict.lines()         what `condbench check my_gate` prints

Every contract is tried on every tiny task that the method supports: seconds on a CPU, random data.
What is broken is named with the line to look at. A contract that does not apply gives the reason.

catalogue                the contracts by name
attempt, findings        trying them, and the report
candidate                a method on one tiny task, trained for a few steps
tiny_tasks               the tasks; supported_tasks: on which of them a method is tried
comparison, gradients, function_modes, masked_path, source_lines: what contracts are made of
"""

from __future__ import annotations

from bench.check.attempt import check
from bench.check.candidate import Candidate
from bench.check.catalogue import CONTRACTS
from bench.check.contract import Broken, Contract, NotDefined
from bench.check.findings import Verdict
from bench.check.supported_tasks import candidates

__all__ = [
    "CONTRACTS",
    "Broken",
    "Candidate",
    "Contract",
    "NotDefined",
    "Verdict",
    "candidates",
    "check",
]
