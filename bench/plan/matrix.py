"""From overrides and conf/ to planned trials: `make_plan`.

    overrides -> axes -> Hydra's compositions -> resolved configurations -> planned trials,
    grouped by the dense model that they share, that dense model's trial first

An experiment file keeps Hydra's grammar: `# @package _global_` and `hydra.sweeper.params`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any

from bench import plugins
from bench.config import Config, as_config
from bench.plan import overrides
from bench.plan.compose import Composer, composing
from bench.plan.explain import PlanError
from bench.plan.overrides import COMMAND_LINE, Axis
from bench.plan.own_keys import axes_of_choice, without_absent
from bench.plan.planned import PlannedTrial, TrialMaker, Variant
from bench.plugins import BrokenPlugin, Plugin
from bench.records import layout

DEFAULT_EXPERIMENT = "quickstart"
MAX_CELLS = 100_000  # of one sweep: more would be planned for hours
Cell = tuple[PlannedTrial, PlannedTrial]  # a trial and the dense trial that it needs
Place = tuple[str, str]  # a trial's folder and key
Pairs = Sequence[tuple[Axis, Any]]  # what each axis takes in one cell

__all__ = ["Plan", "PlanError", "make_plan"]


@dataclass(frozen=True)
class Plan:
    """Trials in the order in which they run, and what was left out and why."""

    trials: list[PlannedTrial]
    left_out: list[str]
    retries: set[str]  # "invalid", "failed": what to run again beyond what is missing


@dataclass(frozen=True)
class Refused:
    """A cell of the matrix that cannot be planned: what the sweep takes there, and why not."""

    cell: str  # "" where nothing is swept, or where all that a plugin does is left out
    why: str


def make_plan(arguments: Sequence[str] = ()) -> Plan:
    """Every trial that the override strings describe, and the dense trials that these need.

    No argument means the quickstart. Reads conf/, plugins and data; writes nothing. Raises
    PlanError, with one sentence for each reason.
    """
    with composing() as composer:
        return _plan(composer, arguments or [f"experiment={DEFAULT_EXPERIMENT}"])


def _plan(composer: Composer, arguments: Sequence[str]) -> Plan:
    # The experiment is taken out: its own sweep is read first, and the command line wins over it.
    given = overrides.read(arguments, COMMAND_LINE, composer.choices)
    experiments = given.pop("experiment", None)
    maker, cells = TrialMaker(), []
    refused: dict[str, list[str]] = {}  # each complaint, and the cells that it is about
    for experiment in experiments.values if experiments else [None]:
        for axes in composer.sweeps(experiment) if experiment else [{}]:
            for made in _cells(
                composer, maker, experiment, {**without_absent(axes, given), **given}
            ):
                if isinstance(made, Refused):
                    refused.setdefault(made.why, []).append(made.cell)
                else:
                    cells.append(made)
    # A refused cell leaves the others: a sweep over many settings need not be exact.
    left_out = [_complaint(why, about) for why, about in refused.items()]
    if not cells:
        raise PlanError("\n".join(left_out) or "the sweep is empty: there is no trial to plan")
    retries = {trial.config["retry"] for trial, _ in cells} - {""}
    return Plan(_order_dense_first(cells), left_out, retries)


def _complaint(why: str, cells: Sequence[str]) -> str:
    """One line for all cells that are left out for one reason: the first one is named."""
    more = f" (and {len(cells) - 1} more)" if len(cells) > 1 and cells[0] else ""
    return f"{cells[0]}{more}: {why}" if cells[0] else why


def _cells(
    composer: Composer, maker: TrialMaker, experiment: str | None, axes: dict[str, Axis]
) -> Iterator[Cell | Refused]:
    """The cells of one sweep of an experiment; what cannot be planned yields the reason."""
    num_cells = prod(len(axis.values) for axis in axes.values())
    if num_cells > MAX_CELLS:
        raise PlanError(f"the sweep has {num_cells:,} cells, more than {MAX_CELLS:,}: split it")
    start = [experiment] if experiment else []
    # Hydra composes each combination of choices once, which takes 0.1 s; plain values are cheap.
    values = [axis for axis in axes.values() if not axis.composed]
    groups = [axis for axis in axes.values() if axis.composed]
    dense = plugins.find("method", "dense")
    for choices in product(*(axis.values for axis in groups)):
        chose = list(zip(groups, choices, strict=True))
        try:
            config, names = composer.compose_named([*start, *choices])
            chosen = composer.plugins_of(config)
            variants = _variants(composer, chosen, names)
            own = axes_of_choice(values, groups, names, composer.keys)
            points = product(*(axis.values for axis in own))
            for resolved, point in zip(composer.expand(config, own), points, strict=True):
                takes = [*chose, *zip(own, point, strict=True)]
                yield _cell(
                    maker, _name_after_file(resolved, experiment), chosen, dense, variants, takes
                )
        except BrokenPlugin as error:  # of this combination only
            yield Refused("", str(error))


def _cell_name(takes: Pairs) -> str:
    """The values that only this cell takes: "method=moe task.length=1"."""
    swept = [(axis, value) for axis, value in takes if len(axis.values) > 1]
    return " ".join(str(v) if axis.composed else f"{axis.key}={v}" for axis, v in swept)


def _variants(
    composer: Composer, chosen: dict[str, Plugin], names: dict[str, str]
) -> dict[str, Variant]:
    """The named variants among the choices: their trials are called by these names."""
    return {
        kind: Variant(name.replace("/", "-"), composer.settings(kind, name))
        for kind, name in names.items()
        if name != chosen[kind].name
    }


def _cell(
    maker: TrialMaker,
    config: dict[str, Any],
    chosen: dict[str, Plugin],
    dense: Plugin,
    variants: dict[str, Variant],
    takes: Pairs,
) -> Cell | Refused:
    try:
        as_config(config)
        layout.check_name(config["name"])  # a folder: nothing that leads out of the tree
        trial = maker.make(config, chosen, variants)
        if config["measure"]["counts_only"]:
            return trial, trial  # nothing is trained or compared: no dense model is needed
        return trial, maker.dense_twin(config, chosen, dense, variants)
    except (ValueError, LookupError) as error:
        return Refused(_cell_name(takes), str(error))
    except TypeError as error:  # +key=value, past the schema
        return Refused(_cell_name(takes), f"{COMMAND_LINE}: {error}")


def _name_after_file(config: dict[str, Any], experiment: str | None) -> dict[str, Any]:
    """An experiment file that does not say its name is called like the file."""
    if experiment is None or config["name"] != Config.name:
        return config
    return {**config, "name": experiment.rpartition("=")[2].rpartition("/")[2]}


def _order_dense_first(cells: Iterable[Cell]) -> list[PlannedTrial]:
    """Trials grouped by the dense trial they need, that one first; each once in each place."""
    # The dense model's trial trains and stores the checkpoint that the others wait for.
    groups: dict[Place, dict[Place, PlannedTrial]] = {}
    for trial, dense in cells:
        group = groups.setdefault(_place(dense), {_place(dense): dense})
        group.setdefault(_place(trial), trial)
    return [trial for group in groups.values() for trial in group.values()]


def _place(trial: PlannedTrial) -> Place:
    """The same trial under two names, or below two results folders, is two."""
    return str(trial.folder), trial.key
