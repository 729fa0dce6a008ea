"""Plausible joules: power between idle and the board's limit, the counter equal to its power."""

from __future__ import annotations

from bench.measure.plausibility.facts import Doubts, Facts, Metrics, value
from bench.meters.energy.reading import ABOVE_LIMIT, BELOW_IDLE, CONSISTENT

CONTROL_MARGIN = 0.02  # how far beyond its interval an A/A energy ratio may lie from 1
CONVICTED = ("energy_j_per_sample", "energy_net_j_per_sample", "energy_ratio")


def power(metrics: Metrics, facts: Facts) -> Doubts:
    """A board draws between idle and its limit, and the same model as much as itself."""
    for stem in ("infer/", "infer/module_"):
        doubt = _doubt(metrics, stem)
        if doubt is not None:
            yield from ((stem + name, doubt) for name in CONVICTED if stem + name in metrics)
    ratio = metrics.get("infer/energy_ratio")
    if not facts.is_control or ratio is None or ratio.low is None or ratio.high is None:
        return
    if ratio.low > 1 + CONTROL_MARGIN or ratio.high < 1 - CONTROL_MARGIN:
        yield "infer/energy_ratio", f"the same model draws {ratio.value:.3f} times its own energy"


def _doubt(metrics: Metrics, stem: str) -> str | None:
    names = ("mean_power_w", "idle_power_w", "power_limit_w", "counter_ratio")
    mean_w, idle_w, limit_w, agreement = (value(metrics, f"{stem}energy_{n}") for n in names)
    if mean_w is not None and idle_w is not None and mean_w < BELOW_IDLE * idle_w:
        return f"a mean power of {mean_w:.4g} W, the idle board draws {idle_w:.4g} W"
    if mean_w is not None and limit_w is not None and mean_w > ABOVE_LIMIT * limit_w:
        return f"a mean power of {mean_w:.4g} W, the board's limit is {limit_w:.4g} W"
    if agreement is not None and abs(agreement - 1) > CONSISTENT:
        return f"the counter says {agreement:.3f} times the integrated power"
    return None
