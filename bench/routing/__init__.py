"""What a conditional module shares with the harness: decisions, regions and FLOP formulas.

    announce      what a gate calls, and the decision that it gets back to obey
    decisions     what a gate chose: axes, probabilities, cost, the originals of its rows
    observation   the decisions of a pass, also for some of its samples
    replay        observing gates, overriding their decisions, repeating a recording
    forcing       all gates open, all closed, or a random choice of the same budget
    share         gates that run a stated share of their elements
    experts       the routing of experts as a stated workload
    regions       the part of the work in progress: router, dispatch, expert, ...
    formulas      what a custom operation costs
    context       what of all this is active in a thread

A method calls `decide(...)` wherever it chooses and obeys the returned decision. Usually that is
its own choice. The harness can record decisions (`observe`), force gates (`force`) or repeat a
recording (`replay`), which makes "skipping equals masking" and "a sample alone equals the same
sample in a batch" testable for every method:

    with routing.observe() as seen:
        model(batch)
    with routing.replay(seen):
        model.train()(batch)          # the masked path takes the same decisions
"""

from bench.routing.announce import announce, decide
from bench.routing.decisions import (
    SAMPLE_CHOICES,
    SAMPLES,
    TOKEN_CHOICES,
    TOKENS,
    UNITS,
    Axis,
    Cost,
    Decision,
)
from bench.routing.experts import OWN, ROUTINGS, Routing, StatedExperts, StatedGates, routes
from bench.routing.forcing import Force, force
from bench.routing.formulas import Formula, formulas, register_formula
from bench.routing.observation import Observation
from bench.routing.regions import GATE_REGIONS, REGIONS, current_region, region, watch_regions
from bench.routing.replay import is_forced, is_read, is_watched, observe, override, replay
from bench.routing.share import Gates, ShareOfGates, at_share, takes_share

# How far the executed saving of a batch may fall short of what its decisions declare, as a share of
# all FLOPs. A method beyond it masks or pads instead of skipping, and is labelled so.
SHORTFALL = 0.05

# No import of torch in this package outside functions: reading records loads it, torch stays out.

__all__ = [
    "GATE_REGIONS",
    "OWN",
    "REGIONS",
    "ROUTINGS",
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
    "Gates",
    "Observation",
    "Routing",
    "ShareOfGates",
    "StatedExperts",
    "StatedGates",
    "announce",
    "at_share",
    "current_region",
    "decide",
    "force",
    "formulas",
    "is_forced",
    "is_read",
    "is_watched",
    "observe",
    "override",
    "region",
    "register_formula",
    "replay",
    "routes",
    "takes_share",
    "watch_regions",
]
