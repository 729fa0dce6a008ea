"""report.html: one page with everything in it, readable without a network.

Tables, figures, notes and provenance; no script, no foreign request (the page forbids itself both),
and every text from a record escaped by jinja2.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2

from bench.report.render.cards import alarms, cards
from bench.report.tables.columns import sheet
from bench.report.tables.legend import below, conditions
from bench.report.tables.robustness import robustness
from bench.report.tables.rows import Table, trial_name
from bench.report.tables.tails import tails

CAPTIONS = {
    "speedup.png": "Theoretical against measured speed-up over the dense model, with its 95 % "
    "interval. On the diagonal the whole saving of FLOPs became a saving of time; in the shaded "
    "half the method is slower than dense.",
    "quality_cost.png": "Quality against executed FLOPs; a line joins the operating points of one "
    "trained model, the filled marker is its default.",
    "robustness.png": "Quality and executed FLOPs as the inputs get harder: the clean samples, "
    "corruptions of severity 1 to 5, inputs without a right answer. A method that spends where it "
    "is hard rises to the right in the FLOPs.",
}


def page(
    title: str, tables: Sequence[Table], images: Mapping[str, bytes], problems: Sequence[str]
) -> str:
    """The page's HTML. `images` are PNGs by file name, as named in CAPTIONS."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("bench.report.render", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template("page.html").render(
        title=title,
        num_trials=sum(len(table.found) for table in tables),
        sections=[_section(table) for table in tables],
        images=[
            {"base64": base64.b64encode(image).decode("ascii"), "caption": CAPTIONS[name]}
            for name, image in images.items()
        ],
        problems=problems,
    )


def _section(table: Table) -> dict[str, Any]:
    text = sheet(table)
    return {
        "table": table,
        "sheet": text,
        "conditions": conditions(table),
        "below": below(table, text),
        "tails": tails(table),
        "robustness": robustness(table),
        "alarmed": {
            trial_name(found.record.labels) for found in table.found if alarms(found.record)
        },
        "cards": cards(table),
    }
