"""The tutorial on methods shows what `condbench new` writes and what `condbench check` tests."""

from __future__ import annotations

import re

from bench import scaffold
from tests.docs.pages import BLOCK, ROOT

PAGE = ROOT / "docs" / "tutorials" / "write-a-method.md"
BLOCKS = BLOCK.findall(PAGE.read_text(encoding="utf-8"))
BREAKS_IT = "return self.ffn(x) * run[..., None]"  # what the reader is told to write instead
OUTCOMES = re.compile(r"^  (?:kept|BROKEN|-) +(\w+)", re.MULTILINE)


def test_the_method_of_the_page_is_the_one_that_is_written(tmp_path) -> None:
    """Its Python, comments and line breaks aside, is part of the file that a reader opens."""
    place = scaffold.write("my_gate", tmp_path)
    written = _compact((place / "my_gate.py").read_text(encoding="utf-8"))
    shown = [block for language, block in BLOCKS if language == "python"]
    assert len(shown) == 3
    for block in shown:
        if block.strip() != BREAKS_IT:
            assert _compact(block) in written


def _compact(source: str) -> str:
    return "".join(re.sub(r"#.*", "", source).split()).replace(",)", ")")


def test_the_contracts_of_the_page_are_those_of_the_kit() -> None:
    """The output that it shows names contracts that the kit has."""
    from bench.check.catalogue import CONTRACTS

    shown = {name for _, block in BLOCKS for name in OUTCOMES.findall(block)}
    assert "executed_is_declared" in shown
    assert shown <= {contract.name for contract in CONTRACTS}
