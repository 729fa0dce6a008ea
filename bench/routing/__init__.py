"""What a conditional module shares with the harness: decisions, regions and FLOP formulas.

    decisions   what a gate chose: axes, probabilities, cost, the originals of its rows
    replay      watching gates, forcing them open, closed or random, repeating a recording
    regions     which part of the work is going on: router, dispatch, expert, ...
    formulas    what a custom operation costs

A method calls `decide(...)` wherever it chooses and obeys what comes back. Usually that is its own
choice. The harness can watch (`observe`), force gates (`force`) or replay a recording (`replay`),
which makes "skipping equals masking" and "a sample alone equals the same sample in a batch"
testable for every method:

    with routing.observe() as seen:
        model(batch)
    with routing.replay(seen):
        model.train()(batch)          # the masked path takes the same decisions
"""

from bench.routing.decisions import (
    SAMPLE_CHOICES,
    SAMPLES,
    TOKEN_CHOICES,
    TOKENS,
    UNITS,
    Axis,
    Cost,
    Decision,
    Observation,
    announce,
    decide,
)
from bench.routing.formulas import Formula, formulas, register_formula
from bench.routing.regions import GATE_REGIONS, REGIONS, current_region, region, watch_regions
from bench.routing.replay import Force, choosing, force, is_forced, observe, replay

# How far the executed saving of a batch may fall short of what its decisions declare, as a share of
# all FLOPs: beyond that a method is said to mask, or to pad.
SHORTFALL = 0.05

__all__ = [
    "GATE_REGIONS",
    "REGIONS",
    "SAMPLES",
    "SAMPLE_CHOICES",
    "SHORTFALL",
    "TOKENS",
    "TOKEN_CHOICES",
    "UNITS",
    "Axis",
    "Cost",
    "Decision",
    "Force",
    "Formula",
    "Observation",
    "announce",
    "choosing",
    "current_region",
    "decide",
    "force",
    "formulas",
    "is_forced",
    "observe",
    "region",
    "register_formula",
    "replay",
    "watch_regions",
]
