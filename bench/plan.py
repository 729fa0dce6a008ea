"""From overrides and conf/ to planned trials: Hydra composes here and never launches.

    once per combination of group choices: Hydra's Compose API -> a typed configuration
    once per combination of plain values: set on the result, type-checked
    -> planned trials, grouped by the dense model that they share, that dense model's trial first

An experiment file keeps Hydra's grammar: `# @package _global_` and `hydra.sweeper.params`.
"""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from hydra import compose, initialize_config_module
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from bench import layout, overrides, plugins
from bench.config import Config, typed
from bench.explain import explain
from bench.overrides import Axis, BadOverride
from bench.planned import PlannedTrial, TrialMaker
from bench.plugins import BrokenPlugin, Plugin, PluginError

CONF = "bench.conf"  # the package that holds conf/
COMMAND_LINE = "command line"
DEFAULT_EXPERIMENT = "quickstart"
UNTYPED = "_untyped"  # stands in for a plugin while only an experiment's sweep is read
Cell = tuple[PlannedTrial, PlannedTrial]  # a trial and the dense trial that it needs


class PlanError(Exception):
    """Nothing can be planned; the message says what is wrong, where, and the way out."""


@dataclass(frozen=True)
class Plan:
    """Trials in the order in which they run, and what was left out because a plugin is broken."""

    trials: list[PlannedTrial]
    left_out: list[str]
    retries: set[str]  # "invalid", "failed": what to run again beyond what is missing


def make_plan(arguments: Sequence[str] = ()) -> Plan:
    """Every trial that the override strings ask for, and the dense trials that these need.

    No argument means the quickstart. Reads conf/, plugins and data; writes nothing. Raises
    PlanError, with one sentence for a person.
    """
    try:
        with initialize_config_module(CONF, version_base="1.3"):
            return _plan(_Composer(), arguments or [f"experiment={DEFAULT_EXPERIMENT}"])
    except (PluginError, BadOverride) as error:
        raise PlanError(str(error)) from error
    except (HydraException, OmegaConfBaseException, YAMLError) as error:
        raise PlanError(explain(error, COMMAND_LINE)) from error


def _plan(composer: _Composer, arguments: Sequence[str]) -> Plan:
    given = overrides.read(arguments, COMMAND_LINE, composer.choices)
    experiments = given.pop("experiment", None)
    maker, cells, left_out = TrialMaker(), [], {}
    for experiment in experiments.values if experiments else [None]:
        for made in _matrix(composer, maker, experiment, given):
            if isinstance(made, BrokenPlugin):
                left_out[str(made)] = made
            else:
                cells.append(made)
    if not cells:
        raise PlanError("\n".join(left_out) or "the sweep is empty: there is no trial to plan")
    retries = {trial.config["retry"] for trial, _ in cells} - {""}
    return Plan(_dense_first(cells), list(left_out), retries)


def _matrix(
    composer: _Composer, maker: TrialMaker, experiment: str | None, given: dict[str, Axis]
) -> Iterator[Cell | BrokenPlugin]:
    """The cells of one experiment; a combination whose plugin is broken yields the reason."""
    start = [experiment] if experiment else []
    axes = {**composer.swept_by(experiment), **given} if experiment else given
    values = [axis for axis in axes.values() if not axis.composed]
    dense = plugins.find("method", "dense")
    for choices in product(*(axis.values for axis in axes.values() if axis.composed)):
        try:
            config = composer.compose([*start, *choices])
            chosen = composer.plugins_of(config)
            for resolved in composer.expand(config, values):
                yield _cell(maker, _named(resolved, experiment), chosen, dense)
        except BrokenPlugin as error:
            yield error


def _cell(
    maker: TrialMaker, config: dict[str, Any], chosen: dict[str, Plugin], dense: Plugin
) -> Cell:
    try:
        typed(config)
        layout.check_name(config["name"])
        return maker.make(config, chosen), maker.dense_twin(config, chosen, dense)
    except (ValueError, LookupError) as error:
        raise PlanError(str(error)) from error


def _named(config: dict[str, Any], experiment: str | None) -> dict[str, Any]:
    """An experiment file that does not say its name is called like the file."""
    if experiment is None or config["name"] != Config.name:
        return config
    return {**config, "name": experiment.rpartition("=")[2].rpartition("/")[2]}


def _dense_first(cells: Iterable[Cell]) -> list[PlannedTrial]:
    """Trials grouped by the dense trial they need, that one first; each key once."""
    groups: dict[str, dict[str, PlannedTrial]] = {}
    for trial, dense in cells:
        group = groups.setdefault(dense.key, {dense.key: dense})
        group.setdefault(trial.key, trial)
    return [trial for group in groups.values() for trial in group.values()]


class _Composer:
    """Hydra with the plugins' schemas, which are imported and registered as they are chosen."""

    def __init__(self) -> None:
        self.known = {kind: plugins.choices(kind) for kind in plugins.GROUPS}
        self.schemas: dict[tuple[str, type | None], Plugin] = {}
        self.checked: dict[tuple[Any, str, str], Any] = {}
        self.loader = GlobalHydra.instance().config_loader()
        store = ConfigStore.instance()
        store.store(name="condbench", node=Config)
        for kind in plugins.GROUPS:
            store.repo.pop(kind, None)  # of an earlier plan in this process
            store.store(group=kind, name=UNTYPED, node={})

    def choices(self, group: str) -> list[str]:
        """Every choice of a group: files under conf/ and plugins. Nothing is imported."""
        files = [name for name in self._files(group) if not name.startswith("_")]
        return sorted({*files, *self.known.get(group, ())})

    def _files(self, group: str) -> list[str]:
        folders = self.loader.list_groups(group)
        inner = [f"{name}/{file}" for name in folders for file in self._files(f"{group}/{name}")]
        return [*self.loader.get_group_options(group), *inner]

    def swept_by(self, experiment: str) -> dict[str, Axis]:
        """The axes under hydra.sweeper.params of a chosen experiment ("experiment=NAME")."""
        # Which plugins the sweep will choose is not known yet: their settings stay unchecked.
        config = self.compose(
            [experiment, *(f"{kind}={UNTYPED}" for kind in plugins.GROUPS)], hydra=True
        )
        params = config.hydra.sweeper.get("params") or {}
        source = f"conf/{experiment.replace('=', '/')}.yaml, hydra.sweeper.params"
        swept = [f"{key}={value}" for key, value in params.items()]
        return overrides.read(swept, source, self.choices)

    def compose(self, arguments: Sequence[str], *, hydra: bool = False) -> DictConfig:
        """One typed configuration. Raises BrokenPlugin, and what Hydra raises."""
        while True:
            try:
                return compose("config", [*arguments], return_hydra_config=hydra)
            except MissingConfigException as error:
                kind, _, name = str(error.missing_cfg_file).partition("/")
                plugin = self.known.get(kind, {}).get(name)
                if plugin is None or plugin in self.schemas.values():
                    raise
                self._register(plugin)

    def _register(self, plugin: Plugin) -> None:
        cls = plugin.load()
        try:
            ConfigStore.instance().store(group=plugin.kind, name=plugin.name, node=cls)
        except OmegaConfBaseException as error:
            raise plugin.broken(f"its settings cannot be typed: {error}") from error
        self.schemas[plugin.kind, cls] = plugin

    def plugins_of(self, config: DictConfig) -> dict[str, Plugin]:
        """The plugin behind each typed block. Raises PlanError for a variant of none."""
        found = {}
        for kind in plugins.GROUPS:
            plugin = self.schemas.get((kind, OmegaConf.get_type(config, kind)))
            if plugin is None:
                raise PlanError(
                    f"the {kind} is not based on a plugin: begin conf/{kind}/NAME.yaml with "
                    f"'defaults:' and one of {', '.join(self.known[kind])}"
                )
            found[kind] = plugin
        return found

    def expand(self, config: DictConfig, axes: Sequence[Axis]) -> Iterator[dict[str, Any]]:
        """The resolved configuration of every combination of plain values.

        Setting a value on Hydra's result costs 50 times what it costs on a dict, so each is
        checked once; only a configuration with interpolations is set and resolved every time.
        """
        unset = OmegaConf.missing_keys(config) - {axis.key for axis in axes}
        if unset:
            raise PlanError(f"no value for {', '.join(sorted(unset))}: it has no default, give one")
        interpolated = _plain(config, resolve=False) != (base := _plain(config))
        for values in product(*(axis.values for axis in axes)):
            pairs = list(zip(axes, values, strict=True))
            if interpolated:
                changed = copy.deepcopy(config)
                for axis, value in pairs:
                    _assign(changed, axis, value)
                yield _plain(changed)
                continue
            resolved = base
            for axis, value in pairs:
                resolved = _with(resolved, axis.key.split("."), self._check(config, axis, value))
            yield resolved

    def _check(self, config: DictConfig, axis: Axis, value: Any) -> Any:
        """`value` as the key's type holds it."""
        typed_by = OmegaConf.get_type(config, axis.key.partition(".")[0])
        case = (typed_by, axis.key, repr(value))
        if case not in self.checked:
            self.checked[case] = _assign(config, axis, value)
        return self.checked[case]


def _assign(config: DictConfig, axis: Axis, value: Any) -> Any:
    """Set one value in place and return it as JSON holds it. Raises PlanError."""
    where = f"{axis.source}, {axis.key}={value}"
    *blocks, leaf = axis.key.split(".")
    node: Any = config
    try:
        for block in blocks:
            node = node[block]
        if not isinstance(node, DictConfig):
            raise PlanError(f"{where}: {'.'.join(blocks)} is one value and has no keys")
        if dataclasses.is_dataclass(OmegaConf.get_type(node, leaf)):
            raise PlanError(f"{where}: {axis.key} is a block: set its keys one by one")
        node[leaf] = value
    except OmegaConfBaseException as error:
        raise PlanError(explain(error, where)) from error
    held = node[leaf]
    if held is None or isinstance(held, str | int | float):  # by far the most
        return held
    return _plain(OmegaConf.create({leaf: held}))[leaf]


def _plain(config: DictConfig, *, resolve: bool = True) -> Any:
    content = OmegaConf.to_container(config, resolve=resolve, enum_to_str=True)
    return json.loads(json.dumps(content, default=str))


def _with(config: dict[str, Any], path: Sequence[str], value: Any) -> dict[str, Any]:
    """A copy of nested dicts with one value replaced; what is untouched is shared."""
    first, *rest = path
    return {**config, first: _with(config[first], rest, value) if rest else value}
