"""Every named size of the backbones: parameters and MACs, counted on the meta device.

    python -m tests.studies.backbone_sizes            print the table
    python -m tests.studies.backbone_sizes --write    write it

It is part of docs/reference/backbones.md, and the first lines of conf/backbone/*.yaml hold the same
counts. A test compares both, and the `size` of each family, with a recount.
"""

from __future__ import annotations

import argparse
import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from bench.meters.flops.counter import count
from bench.types import Batch, TaskSpec
from tests.studies.pages import split_page

ROOT = Path(__file__).parents[2]
VARIANTS = ROOT / "conf" / "backbone"
PUBLISHED = ROOT / "tests" / "methods" / "backbone" / "published_sizes.csv"
PAGE = ROOT / "docs" / "reference" / "backbones.md"
BEGIN, END = "<!-- sizes -->\n", "<!-- end of sizes -->"
NOT_PUBLISHED = "no published figure"
SIZE = r"[\d.]+ [MGK] parameters, [\d.]+ [MGK] MAC at \S+"


@dataclass(frozen=True)
class Size:
    """One named size on one input, and what was published about it."""

    name: str
    input: str  # "image 3x224x224", "tokens 1024", "seq2seq 64x64", "audio 40x101"
    num_outputs: int
    params: str  # as printed by its source; "" where nothing was
    macs: str
    why: str  # how and why the published figure differs
    source: str

    @property
    def spec(self) -> TaskSpec:
        """The task whose input and output it is."""
        kind, _, text = self.input.partition(" ")
        shape = tuple(int(part) for part in text.split("x"))
        if kind in ("image", "audio"):
            return TaskSpec(self.name, kind, shape, self.num_outputs)  # type: ignore[arg-type]
        return TaskSpec(
            self.name,
            kind,  # type: ignore[arg-type]
            shape[:1],
            self.num_outputs,
            vocab_size=self.num_outputs,
            causal=kind == "tokens",
            target_length=shape[1] if kind == "seq2seq" else None,
        )


@cache
def sizes() -> tuple[Size, ...]:
    """The rows of published_sizes.csv."""
    with PUBLISHED.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return tuple(Size(**{**row, "num_outputs": int(row["num_outputs"])}) for row in rows)


def backbone(name: str) -> Any:
    """The backbone that `backbone=NAME` chooses: a plugin's defaults, or a file's settings."""
    doors = {door.name: door for door in entry_points(group="condbench.backbones")}
    path = VARIANTS / f"{name}.yaml"
    if not path.exists():
        return doors[name].load()()
    settings: Any = OmegaConf.to_container(OmegaConf.load(path))
    (base,) = settings.pop("defaults")
    return doors[base].load()(**settings)


@cache
def count_size(size: Size) -> tuple[int, int]:
    """Parameters, and MACs of one sample; nothing is allocated or computed.

    Raises AssertionError where an op has no formula.
    """
    spec = size.spec
    with torch.device("meta"), torch.no_grad():
        model = backbone(size.name).build(spec).eval()
        inputs = torch.zeros(1, *spec.input_shape, dtype=_dtype(spec))
        decoder = None
        if spec.target_length is not None:
            decoder = torch.zeros(1, spec.target_length, dtype=torch.long)
        found = count(model, Batch(inputs, inputs, decoder_inputs=decoder))
    assert found.complete, found.ops_without_formula
    return sum(parameter.numel() for parameter in model.parameters()), found.macs


def _dtype(spec: TaskSpec) -> torch.dtype:
    return torch.long if spec.kind in ("tokens", "seq2seq") else torch.float32


def format_number(number: float) -> str:
    """Three digits and a unit: 25_557_032 is "25.6 M"."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "K")):
        if number >= 0.9995 * limit:
            return f"{float(f'{number / limit:.3g}'):g} {unit}"
    return str(number)


def describe(size: Size) -> str:
    """A size in one line, as in its file: "0.27 M parameters, 40.6 M MAC at 3x32x32"."""
    params, macs = count_size(size)
    shape = size.input.partition(" ")[2]
    return f"{format_number(params)} parameters, {format_number(macs)} MAC at {shape}"


def table() -> Iterator[str]:
    """The rows of docs/reference/backbones.md."""
    yield "| `backbone=` | input | parameters | MAC | published | differs | source |"
    yield "|---|---|---|---|---|---|---|"
    for size in sizes():
        params, macs = count_size(size)
        yield (
            f"| `{size.name}` | {size.input} | {params:,} | {macs:,} | {_published(size)} "
            f"| {size.why or '-'} | {size.source or '-'} |"
        )


def _published(size: Size) -> str:
    """Parameters / cost as printed, or that there is no figure."""
    if not (size.params or size.macs):
        return NOT_PUBLISHED
    printed = (
        f"{int(t):,}" if t.isdigit() else t or NOT_PUBLISHED for t in (size.params, size.macs)
    )
    return " / ".join(printed)


def first_line(name: str) -> str:
    """The comment that a size's file begins with, with its counts brought up to date."""
    line = (VARIANTS / f"{name}.yaml").read_text(encoding="utf-8").splitlines()[0]
    about = re.sub(rf": {SIZE}$", "", line.rstrip("."))
    size = next(size for size in sizes() if size.name == name)
    return f"{about}: {describe(size)}."


def main() -> None:
    """Print the table, or write it."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.studies.backbone_sizes", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--write", action="store_true", help="rewrite the page and conf/backbone")
    if not parser.parse_args().write:
        print(*table(), sep="\n")
        return
    before, _, after = split_page(PAGE, BEGIN, END)
    PAGE.write_text(before + "\n".join(table()) + "\n" + after, encoding="utf-8")
    for path in sorted(VARIANTS.glob("*.yaml")):
        _, *rest = path.read_text(encoding="utf-8").splitlines()
        path.write_text("\n".join([first_line(path.stem), *rest]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
