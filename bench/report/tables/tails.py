"""A second, compact table of the page: how costs spread over inputs, and throughput."""

from __future__ import annotations

from bench.report.tables.columns import SI, Column, Sheet, headline_batches, scaled, sheet
from bench.report.tables.rows import Table

MS = ((1.0, "ms"),)


def tails(table: Table) -> Sheet | None:
    """Latency and FLOPs at their percentiles, causal FLOPs, throughput; None where none is known.

    A percentile that no row has, because too few inputs were measured, has no column.
    """
    columns = [column for column in _columns(table) if _is_known(table, column)]
    return sheet(table, columns=columns) if columns else None


def _columns(table: Table) -> list[Column]:
    latency = [
        scaled(table, f"latency b1 p{percent}", f"infer/latency_ms_p{percent}", MS)
        for percent in (50, 90, 99)
    ]
    throughput = [
        scaled(table, f"throughput b{n}", f"infer/throughput_b{n}", SI, "/s")
        for n in headline_batches(table)
    ]
    flops = [
        scaled(table, f"FLOPs {name}", f"infer/flops_per_sample_{name}", SI, "/sample")
        for name in ("p50", "p90", "p99", "max")
    ]
    causal = scaled(table, "FLOPs causal", "infer/flops_causal", SI, "/sample")
    return [*latency, *throughput, *flops, causal]


def _is_known(table: Table, column: Column) -> bool:
    cells = (row.cells.get(column.key) for row in table.rows)
    return any(cell is not None and cell.value is not None for cell in cells)
