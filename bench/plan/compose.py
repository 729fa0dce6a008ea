"""Hydra composes here, and never launches: choices and plugins' schemas in, plain dicts out.

    with composing() as composer:
        composed = composer.compose(["method=moe"])     # once per combination of choices
        composer.expand(composed, axes)                 # once per combination of plain values

A schema is a plugin's dataclass; it is imported and registered when it is chosen, so that a plan
pays for the plugins in it and not for all that are installed.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from typing import Any

from hydra import compose, initialize_config_module
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins as HydraPlugins
from hydra.errors import HydraException, MissingConfigException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import MISSING, DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from omegaconf.resolvers import oc
from yaml import YAMLError

from bench import plugins
from bench.config import Config
from bench.papers.rows import PUBLISHED, trials_of
from bench.plan import overrides
from bench.plan.bounded_yaml import bounded_yaml
from bench.plan.explain import PlanError, explain
from bench.plan.overrides import COMMAND_LINE, Axis
from bench.plan.typed_nodes import as_json, assign, make_schema
from bench.plugins import BrokenPlugin, Plugin, PluginError
from bench.records.redaction import is_secret

CONF = "bench.conf"  # the package that holds conf/
UNTYPED = "_untyped"  # stands in for a plugin while only an experiment's sweep is read


class VariantsOfPlugins(SearchPathPlugin):
    """Hydra also looks for named variants in the packages that plugins name, after conf/."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for package in plugins.variant_packages():
            search_path.append(provider=package, path=f"pkg://{package}")


@contextmanager
def composing() -> Iterator[Composer]:
    """A Composer over conf/; what Hydra and OmegaConf raise becomes a PlanError."""
    HydraPlugins.instance().register(VariantsOfPlugins)  # the same class again changes nothing
    try:
        OmegaConf.register_new_resolver("oc.env", _variable, replace=True)
        with bounded_yaml(), initialize_config_module(CONF, version_base="1.3"):
            yield Composer()
    except PluginError as error:
        raise PlanError(str(error)) from error
    except (HydraException, OmegaConfBaseException, YAMLError) as error:
        raise PlanError(explain(error, COMMAND_LINE)) from error
    except RecursionError as error:
        raise PlanError(f"{COMMAND_LINE}: values that are nested without end") from error


def _variable(name: str, *default: str) -> Any:
    """`${oc.env:NAME}` of a file: refused for a secret, as settings stand in every record."""
    if is_secret(name):
        raise ValueError(f"the variable {name} holds a secret, and settings stand in records")
    return oc.env(name, *default)


def variant(kind: str, name: str) -> tuple[Plugin, dict[str, Any]]:
    """The plugin that conf/<kind>/<name>.yaml is made of, called `name`, and its settings.

    Raises PlanError for a name that is neither a file nor a plugin, and what `compose` raises.
    """
    with composing() as composer:
        settings = composer.settings(kind, name)
        plugins_used = [each for (of, _), each in composer.schemas.items() if of == kind]
    if not plugins_used:
        raise PlanError(f"conf/{kind}/{name}.yaml is not based on a plugin")
    if unset := [key for key, value in settings.items() if value == MISSING]:
        raise PlanError(f"{name}: {_no_value(unset)}")
    return dataclasses.replace(plugins_used[0], name=name), settings


def variants(name: str) -> list[tuple[Plugin, dict[str, Any]]]:
    """Every method, backbone and task of that name, with its settings: see `variant`.

    Raises PlanError where there is none.
    """
    with composing() as composer:
        known = {kind: composer.choices(kind) for kind in plugins.GROUPS}
    found = [variant(kind, name) for kind, names in known.items() if name in names]
    if not found:
        every = {each for names in known.values() for each in names}
        raise PlanError(plugins.unknown("method, backbone or task", name, every))
    return found


class Composer:
    """Hydra with the schemas of the plugins that were chosen so far."""

    def __init__(self) -> None:
        self.known = {kind: plugins.choices(kind) for kind in plugins.GROUPS}
        self.schemas: dict[tuple[str, type | None], Plugin] = {}  # by kind and class
        # Values as OmegaConf converted them, by the block's type, the key and the value's text.
        self.values_by_case: dict[tuple[Any, str, str], Any] = {}
        self.settings_by_choice: dict[str, dict[str, Any]] = {}
        self.loader = GlobalHydra.instance().config_loader()
        store = ConfigStore.instance()  # one per process, whatever was composed before
        store.store(name="condbench", node=Config)
        for kind in plugins.GROUPS:
            store.repo.pop(kind, None)  # of an earlier plan in this process
            store.store(group=kind, name=UNTYPED, node={})

    def choices(self, group: str) -> list[str]:
        """Every choice of a group: files under conf/ and plugins. Nothing is imported."""
        files = [name for name in self._files(group) if not name.startswith("_")]
        return sorted({*files, *self.known.get(group, ())})

    def _files(self, group: str) -> list[str]:
        # Folders below a group are groups to Hydra: experiment/paper/NAME is a choice here.
        folders = self.loader.list_groups(group)
        inner = [f"{name}/{file}" for name in folders for file in self._files(f"{group}/{name}")]
        return [*self.loader.get_group_options(group), *inner]

    def sweeps(self, experiment: str) -> list[dict[str, Axis]]:
        """The axes of every sweep of a chosen experiment ("experiment=NAME").

        One, under hydra.sweeper.params; in a paper experiment one for each trial that its published
        rows need. Raises PlanError.
        """
        # Which plugins the sweep will choose is not known yet: their settings stay unchecked.
        config = self.compose(
            [experiment, *(f"{kind}={UNTYPED}" for kind in plugins.GROUPS)], hydra=True
        )
        # Hydra would expand these itself in a multirun; here the plan does, without launching.
        params = config.hydra.sweeper.get("params") or {}
        source = f"conf/{experiment.replace('=', '/')}.yaml, hydra.sweeper.params"
        swept = [f"{key}={value}" for key, value in params.items()]
        if "experiment" in params:
            raise PlanError(f"{source}: an experiment cannot sweep experiments")
        axes = overrides.read(swept, source, self.choices)
        if config.paper is None:
            return [axes]
        try:
            trials = trials_of(config.paper)
        except ValueError as error:
            raise PlanError(f"conf/{experiment.replace('=', '/')}.yaml: {error}") from error
        return [{**axes, **overrides.read(each, PUBLISHED, self.choices)} for each in trials]

    def compose(self, arguments: Sequence[str], *, hydra: bool = False) -> DictConfig:
        """One typed configuration. Raises BrokenPlugin, and what Hydra raises."""
        # Plugins on the command line first; those of files show as missing, one by one.
        for kind, _, name in (text.partition("=") for text in arguments):
            if name in self.known.get(kind, {}):
                self._register(self.known[kind][name])
        while True:  # until every plugin that a defaults list names is there too
            try:
                return compose("config", [*arguments], return_hydra_config=hydra)
            except MissingConfigException as error:
                kind, _, name = str(error.missing_cfg_file).partition("/")
                if name not in self.known.get(kind, {}):
                    raise PlanError(_missing(error, arguments, self.choices)) from error
                self._register(self.known[kind][name])
            except (ValueError, OSError, RecursionError) as error:  # Hydra's own checks, and files
                raise PlanError(f"{_file(arguments)}: {' '.join(str(error).split())}") from error

    def _register(self, plugin: Plugin) -> None:
        if plugin in self.schemas.values():
            return
        cls, node = make_schema(plugin)
        ConfigStore.instance().store(group=plugin.kind, name=plugin.name, node=node)
        self.schemas[plugin.kind, cls] = plugin

    def compose_named(self, arguments: Sequence[str]) -> tuple[DictConfig, dict[str, str]]:
        """One typed configuration, and which choice of each group it comes from."""
        config = self.compose(arguments, hydra=True)
        names = {kind: str(config.hydra.runtime.choices[kind]) for kind in plugins.GROUPS}
        with open_dict(config):  # Hydra's own settings are no part of a trial
            del config["hydra"]
        return config, names

    def settings(self, kind: str, name: str) -> dict[str, Any]:
        """The settings in conf/<kind>/<name>.yaml, without an experiment or an override."""
        choice = f"{kind}={name}"
        if choice not in self.settings_by_choice:
            # The other kinds stay untyped: their plugins need not be imported for this one.
            others = [f"{other}={UNTYPED}" for other in plugins.GROUPS if other != kind]
            self.settings_by_choice[choice] = as_json(self.compose([choice, *others])[kind])
        return self.settings_by_choice[choice]

    def keys(self, kind: str, name: str) -> list[str]:
        """The names of a choice's settings; none where its plugin cannot be used."""
        try:
            return list(self.settings(kind, name))
        except BrokenPlugin:  # the combination that chooses it is left out with the cause
            return []

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
            raise PlanError(_no_value(unset))
        # With ${...} one value may change others, so that each combination is resolved anew.
        interpolated = as_json(config, resolve=False) != (base := as_json(config))
        for values in product(*(axis.values for axis in axes)):
            pairs = list(zip(axes, values, strict=True))
            if interpolated:
                changed = copy.deepcopy(config)
                for axis, value in pairs:
                    assign(changed, axis, value)
                yield as_json(changed)
                continue
            resolved = base
            for axis, value in pairs:
                resolved = _with(resolved, axis.key.split("."), self._check(config, axis, value))
            yield resolved

    def _check(self, config: DictConfig, axis: Axis, value: Any) -> Any:
        """`value` as the key's type holds it."""
        block = axis.key.partition(".")[0]
        # The block's class: the same key may have another type in another method.
        typed_by = OmegaConf.get_type(config, block) if block in config else None
        case = (typed_by, axis.key, repr(value))
        if case not in self.values_by_case:
            self.values_by_case[case] = assign(config, axis, value)
        return self.values_by_case[case]


def _no_value(keys: Iterable[str]) -> str:
    return f"no value for {', '.join(sorted(keys))}: it has no default, give one"


def _missing(
    error: MissingConfigException, arguments: Sequence[str], choices: overrides.Choices
) -> str:
    """A sentence for a name in a defaults list that is neither a file nor a plugin."""
    kind, _, name = str(error.missing_cfg_file).rpartition("/")
    if not kind:  # the primary configuration itself
        return f"{' '.join(str(error).split())} Is condbench installed (pip install -e .)?"
    return f"{_file(arguments)}: {plugins.unknown(kind, name, choices(kind))}"


def _file(arguments: Sequence[str]) -> str:
    """The experiment file among the overrides; conf where there is none."""
    files = [f"conf/{text.replace('=', '/')}.yaml" for text in arguments if "experiment=" in text]
    return files[0] if files else "conf"


def _with(config: dict[str, Any], path: Sequence[str], value: Any) -> dict[str, Any]:
    """A copy of nested dicts with one value replaced; what is untouched is shared."""
    first, *rest = path
    return {**config, first: _with(config[first], rest, value) if rest else value}
