"""`condbench trend PATH`: every metric over the nights, as a page, a figure and CSV."""

from __future__ import annotations

import base64
import csv
import io
import math
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2

from bench.records import layout
from bench.records.redaction import printable
from bench.records.replacing import replace_files
from bench.regress.history import History, read
from bench.report.render.csv_export import neutral
from bench.report.render.page import shown

COLOURS = {  # of the verdicts, in figure and page
    "regressed": "#b2182b",
    "improved": "#2166ac",
    "equal": "#1b7837",
    "inconclusive": "#b08000",
}
WIDTH_IN, HEIGHT_IN, NUM_COLUMNS = 5.0, 1.9, 2  # of one panel


def trend(path: Path, out: Path | None = None) -> list[Path]:
    """Write trend.html, trend.png and trend.csv for each hardware at `path`; their paths.

    `path` is a history file or a folder of them; `out` defaults to trend/ beside it. Raises
    BadHistory where there is nothing to draw.
    """
    histories = [history for history in read(path) if history.nights]
    place = out or (path if path.is_dir() else path.parent) / "trend"
    written = []
    # Never one page for several machines: their ratios are not comparable.
    for history in histories:
        folder = place / layout.part(history.hardware)
        folder.mkdir(parents=True, exist_ok=True)
        image = draw_figure(history)
        contents = {
            "trend.html": as_page(history, image).encode(),
            "trend.png": image,
            "trend.csv": as_csv(history).encode(),
        }
        written += replace_files(folder, contents)
    return written


def metric_names(history: History) -> list[str]:
    """The metrics of all nights, in the order in which they first appear."""
    return list(dict.fromkeys(name for night in history.nights for name in night["metrics"]))


def as_csv(history: History) -> str:
    """CSV for change-point tools: a line per night, time and commit first, then the metrics.

    Per metric its value in the candidate and its ratio to the pinned baseline; empty is missing.
    """
    columns = metric_names(history)
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    header = [part for name in columns for part in (name, f"{name} ratio")]
    # neutral(): a name that begins with "=" would be a formula in a spreadsheet.
    writer.writerow(["time", "commit", "outcome", "canary_s", *map(neutral, header)])
    for night in history.nights:
        cells = [
            night["metrics"].get(name, {}).get(key)
            for name in columns
            for key in ("value", "ratio")
        ]
        start = [_iso_time(night), neutral(str(night["candidate"])), neutral(night["outcome"])]
        writer.writerow([*start, night.get("canary_s"), *cells])
    return stream.getvalue()


def _iso_time(night: dict[str, Any]) -> str:
    return datetime.fromtimestamp(night["unix_s"], UTC).isoformat(timespec="seconds")


def draw_figure(history: History) -> bytes:
    """PNG: one panel per metric, its ratio to the baseline with intervals, coloured by verdict."""
    # Not pyplot: it keeps every figure alive and selects a display.
    from matplotlib.figure import Figure

    metrics = [*metric_names(history), "canary"]
    num_rows = math.ceil(len(metrics) / NUM_COLUMNS)
    figure = Figure(figsize=(NUM_COLUMNS * WIDTH_IN, num_rows * HEIGHT_IN), layout="constrained")
    axes = figure.subplots(num_rows, NUM_COLUMNS, squeeze=False)
    for panel, name in zip(axes.flat, metrics, strict=False):
        panel.set_title(
            printable(name).replace("$", r"\$"), fontsize=7
        )  # "$" begins a formula in matplotlib
        panel.tick_params(labelsize=6)
        if name == "canary":
            _draw_canary(panel, history.nights)
        else:
            _draw_metric(panel, [night["metrics"].get(name) for night in history.nights])
    for panel in list(axes.flat)[len(metrics) :]:
        panel.set_visible(False)  # the last row is rarely full
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110)
    return stream.getvalue()


def _draw_metric(panel: Any, metrics: Sequence[dict[str, Any] | None]) -> None:
    """Ratio - 1 in percent per night; nights without the metric are gaps."""
    panel.axhline(0, color="#999999", linewidth=0.6)
    panel.set_ylabel("cost, %", fontsize=6)
    for number, metric in enumerate(metrics):
        if metric is None or metric["ratio"] is None:
            continue
        # Without an interval, as of a single seed, the bar has no length.
        low, high = (100 * ((metric[end] or metric["ratio"]) - 1) for end in ("low", "high"))
        colour = COLOURS.get(metric["judgement"], "#555555")
        panel.plot([number, number], [low, high], color=colour, linewidth=1)
        panel.plot([number], [100 * (metric["ratio"] - 1)], "o", color=colour, markersize=3)


def _draw_canary(panel: Any, nights: Sequence[dict[str, Any]]) -> None:
    times = [(n, 1e3 * night["canary_s"]) for n, night in enumerate(nights) if night["canary_s"]]
    panel.set_ylabel("ms per pass", fontsize=6)
    panel.plot([n for n, _ in times], [ms for _, ms in times], "o-", color="#555555", markersize=3)


def as_page(history: History, image: bytes) -> str:
    """trend.html: the figure and the nights' verdicts, readable without a network."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("bench.regress", "."),
        autoescape=True,  # commits and metric names come from records
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        finalize=shown,
    )
    nights = [
        {
            "when": _iso_time(night),
            "baseline": night["baseline"],
            "candidate": night["candidate"],
            "outcome": night["outcome"],
            "changed": [
                f"{name}: {metric['judgement']}"
                for name, metric in night["metrics"].items()
                if metric["judgement"] != "equal"
            ],
        }
        for night in reversed(history.nights)  # the latest first
    ]
    return environment.get_template("trend.html").render(
        hardware=history.hardware,
        nights=nights,
        problems=history.problems,
        image=base64.b64encode(image).decode("ascii"),  # inline: the page is one file
        colours=COLOURS,
    )
