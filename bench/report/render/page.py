"""report.html: one self-contained page of tables, figures, notes and provenance.

It has no script and makes no request, and its content security policy forbids both. jinja2 escapes
every text from a record.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2

from bench.records.redaction import printable
from bench.report.maps.cells import Map
from bench.report.maps.render import ABOUT, heading, sentences
from bench.report.render.cards import cards
from bench.report.tables.legend import conditions, lines_below
from bench.report.tables.robustness import TITLE, robustness
from bench.report.tables.sheet import sheet, tails
from bench.report.tables.table import Table
from bench.report.tables.warnings import warnings_by_row

MAP = "map.png"
CAPTIONS = {
    MAP: "Speed-up over dense by model width, tokens and batch size, untrained, and the FLOP "
    "ratio below it. Blue is faster than dense, red slower. Dashed: a speed-up of 1, interpolated "
    "between measured sizes; what has no number was not measured.",
    "speedup.png": "Theoretical against measured speed-up over the dense model, with its 95 % "
    "interval. On the diagonal the FLOP saving is fully realised; in the shaded half the method is "
    "slower than dense.",
    "time_parts.png": "Where the time of a pass goes, as a share of the dense model's: what its "
    "FLOPs take at dense's speed, routing, products that are slower than dense's, and the rest. "
    "The parts sum to the mark, 1 / speed-up; what is left of 0 is faster than dense's. At the "
    "largest batch a bar whose rest is more than 15 % of the pass is withheld.",
    "quality_cost.png": "Quality against executed FLOPs; a line joins the operating points of one "
    "trained model, the filled marker is its default.",
    "robustness.png": "Quality and executed FLOPs on harder inputs: the clean samples, corruptions "
    "of severity 1 to 5, and inputs without a correct answer. A method that executes more on "
    "harder inputs rises to the right in the FLOPs.",
}


def page(
    title: str,
    tables: Sequence[Table],
    images: Mapping[str, bytes],
    problems: Sequence[str],
    maps: Sequence[Map] = (),
    answers: Mapping[str, Any] | None = None,
) -> str:
    """The page's HTML.

    `images` are PNGs by file name, as named in CAPTIONS; `answers` is the part "Does it pay?",
    None where nothing is asked.
    """
    # autoescape is off by default in jinja2, and every word of a record is untrusted.
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("bench.report.render", "."),  # also from a wheel
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,  # a misspelt name is an error, not an empty text
        finalize=shown,
    )
    return environment.get_template("page.html").render(
        title=title,
        num_trials=sum(len(table.found) for table in tables),
        sections=[_section(table) for table in tables],
        images=[_image(name, image) for name, image in images.items() if name != MAP],
        map_image=_image(MAP, images[MAP]) if MAP in images else None,
        map_heading=heading(maps),
        map_lines=[*sentences(maps), ABOUT] if maps else [],
        problems=problems,
        robustness_title=TITLE,
        answers=answers,
    )


def _image(name: str, image: bytes) -> dict[str, str]:
    # Inlined, so that the page can be moved and mailed as one file.
    return {"base64": base64.b64encode(image).decode("ascii"), "caption": CAPTIONS[name]}


def shown(value: Any) -> Any:
    """Text of a record without control characters; what is HTML already stays."""
    return printable(value) if type(value) is str else value


def _section(table: Table) -> dict[str, Any]:
    text = sheet(table)
    return {
        "table": table,
        "sheet": text,
        "conditions": conditions(table),
        "below": lines_below(table, text),
        "tails": tails(table),
        "robustness": robustness(table),
        "warnings": warnings_by_row(table),
        "cards": cards(table),
    }
