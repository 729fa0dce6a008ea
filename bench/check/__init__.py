"""The conformance kit: does a method keep the promises of docs/reference/contract.md?

    verdict = check(find("method", "my_gate"))
    verdict.ok, verdict.lines()         what `condbench check my_gate` prints

Every contract is tried on every tiny task that the method supports: seconds on a CPU, random data.
What is broken is named with the line to look at. A contract that does not apply says why.
"""

from __future__ import annotations

from bench.check.candidate import Candidate, candidates
from bench.check.contracts import CONTRACTS, Broken, Contract, NotDefined
from bench.check.verdict import Verdict, check

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
