"""Results of the studies as the tables of docs/explanation/energy.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from tabulate import tabulate


def markdown(results: Mapping[str, Any]) -> str:
    """A section for each part that was run."""
    facts, steady = results["facts"], results["steady_load"]
    lines = [
        f"{facts['name']}, driver {facts['driver']}, device={facts['device']}, "
        f"scope {facts['scope']}, limit {facts['power_limit_w']} W.",
        f"Idle {results['idle_w_without_context']:.1f} W without a context of this process, "
        f"{results['idle_w_with_context']:.1f} W with it.",
        f"Steady load: {steady['mean_power_w']:.1f} W, counter / integrated power "
        f"{_cell(steady['counter_over_integral'])}, host / device time "
        f"{_cell(steady['host_over_device_time'])}.",
        f"Processes shown by the driver: {results['processes']}.",
    ]
    # Parts may be missing: each run of the program may choose others.
    sections = (
        ("Updates", results.get("periods")),
        ("Square waves", _waves(results.get("square_waves"))),
        ("The same work twice", results.get("same_work")),
    )
    for title, rows in sections:
        if rows:
            lines += ["", f"### {title}", "", _table(rows)]
    if "zeus" in results:
        lines += ["", "### Beside zeus", "", _table([results["zeus"]])]
    return "\n".join(lines) + "\n"


def _waves(rows: Sequence[Mapping[str, Any]] | None) -> list[dict[str, Any]]:
    """One row per period, with the smallest and largest value over the phases."""
    found = []
    for wave_s, group in groupby(rows or [], key=lambda row: row["wave_s"]):
        phases = list(group)  # rows are in order of periods, as groupby requires
        line: dict[str, Any] = {"period_ms": round(1e3 * wave_s), "phases": len(phases)}
        for key in ("counter_over_integral", "counter_over_expected"):
            # A phase whose window was refused has no ratios.
            values = [row[key] for row in phases if row.get(key) is not None]
            line[f"{key}_min"] = min(values, default=None)
            line[f"{key}_max"] = max(values, default=None)
        line["refused"] = sum("refused" in row for row in phases)
        found.append(line)
    return found


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    # The union of the rows' keys, in order: a refused row has others.
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [[_cell(row.get(name)) for name in names] for row in rows]
    headers = [name.replace("_", " ") for name in names]
    return tabulate(cells, headers, tablefmt="github", disable_numparse=True)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
