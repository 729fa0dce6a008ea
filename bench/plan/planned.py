"""A planned trial: its labels, identity, key and folder, worked out from a resolved configuration.

What the trials of one plan share (hashes of code and data, versions, hardware) is found once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from bench.config import KEY_BLOCKS
from bench.plan import identity
from bench.plugins import BrokenPlugin, Plugin, choices, construct, defaults
from bench.plugins.hooks import resolve
from bench.records import environment, layout
from bench.records.loads import recorded_loads
from bench.records.record import Device, Labels
from bench.types import Unsupported

Config = dict[str, Any]
NO_VARIANTS: Mapping[str, Variant] = MappingProxyType({})


@dataclass(frozen=True)
class Variant:
    """A named variant of a plugin, conf/<kind>/NAME.yaml: its name and all its settings."""

    name: str
    settings: Config


@dataclass(frozen=True)
class PlannedTrial:
    """One cell of the matrix with one seed; `content()` is its trial.json."""

    folder: Path
    key: str
    labels: Labels
    config: Config
    entry_points: dict[str, str]  # kind -> module:Class
    identity: dict[str, Any]
    checkpoint: str  # of the dense model, relative to the results folder
    start: str  # of the dense model that others start from: with train.flops, the recipe's

    def content(self) -> dict[str, Any]:
        """What trial.json holds: everything resolved, so that no Hydra is needed to run it."""
        return {
            "schema_version": 1,
            "key": self.key,
            "labels": self.labels.model_dump(),
            "entry_points": self.entry_points,
            "config": self.config,
            "identity": self.identity,
            "dense": {"checkpoint": self.checkpoint, "start": self.start},
        }


@dataclass
class TrialMaker:
    """Makes planned trials; holds what those of one plan share."""

    versions: dict[str, str] = field(default_factory=environment.versions)
    _shared: dict[Any, Any] = field(default_factory=dict)
    _texts: dict[int, tuple[Config, str]] = field(default_factory=dict)  # kept: an id stays theirs

    def make(
        self,
        config: Config,
        plugins: Mapping[str, Plugin],
        variants: Mapping[str, Variant] = NO_VARIANTS,
    ) -> PlannedTrial:
        """The trial that `config` describes, of a plugin of each kind or a variant of one.

        Raises BrokenPlugin for a task that cannot find its data, LookupError for a GPU that is not
        there, and ValueError for settings that a plugin refuses or that JSON cannot hold.
        """
        # First: every later step may call a plugin, and assumes settings that it accepts.
        for kind, plugin in plugins.items():
            self._check(plugin, config[kind])
        # Observed from the driver, never taken from the configuration.
        device: Device = "cpu" if config["gpu"]["kind"] == "cpu" else "cuda"
        hardware = self._once(("hardware", device), lambda: environment.hardware_class(device))
        whole = self._identity(config, plugins, hardware)
        labels = self._labels(config, plugins, variants, hardware, device)
        key = identity.key_of(whole)
        return PlannedTrial(
            folder=layout.trial_folder(Path(config["results"]), labels, key),
            key=key,
            labels=labels,
            config=config,
            entry_points={kind: plugin.target for kind, plugin in plugins.items()},
            identity=whole,
            checkpoint=self._checkpoint(whole),
            start=self._checkpoint(whole, {"flops": None}),
        )

    def dense_twin(
        self,
        config: Config,
        plugins: Mapping[str, Plugin],
        dense: Plugin,
        variants: Mapping[str, Variant] = NO_VARIANTS,
    ) -> PlannedTrial:
        """The same trial with the dense method, which the others start from or compare with."""
        # Everything but the method: with a named task or backbone it is that variant's dense model.
        same = {block: config[block] for block in KEY_BLOCKS if block != "method"}
        others = {kind: variant for kind, variant in variants.items() if kind != "method"}
        names = tuple(sorted((kind, variant.name) for kind, variant in others.items()))
        return self._once(
            ("dense", identity.canonical(same), names, config["results"], config["name"]),
            lambda: self.make(
                {**config, "method": self._defaults(dense)}, {**plugins, "method": dense}, others
            ),
        )

    def _labels(
        self,
        config: Config,
        plugins: Mapping[str, Plugin],
        variants: Mapping[str, Variant],
        hardware: str,
        device: Device,
    ) -> Labels:
        # A label shows what differs from the choice's own settings, a named variant's included.
        named = {k: Variant(p.name, self._defaults(p)) for k, p in plugins.items()} | {**variants}
        defaults = {kind: variant.settings for kind, variant in named.items()}
        return Labels(
            experiment=config["name"],
            hardware=hardware,
            task=named["task"].name,
            backbone=named["backbone"].name,
            method=named["method"].name,
            variant=layout.variant(config, defaults),
            seed=config["seed"],
            device=device,
        )

    def _identity(
        self, config: Config, plugins: Mapping[str, Plugin], hardware: str
    ) -> dict[str, Any]:
        # A control's results change with the code of the method that it controls.
        involved = {**plugins, **self._controlled(config["method"])}
        code = {kind: self._code(plugin) for kind, plugin in involved.items()}
        code["harness"] = self._once("harness", lambda: identity.code_hash(identity.MEASURING_ROOM))
        blocks = {block: config[block] for block in KEY_BLOCKS}
        return {
            "config": {
                **blocks,
                "entry_points": {kind: plugin.target for kind, plugin in plugins.items()},
            },
            "code": code,
            "versions": self._versions(involved),
            "hardware": hardware,
            "data": self._data(plugins["task"], config["task"]),
            **self._loads(config["measure"].get("routing_from")),
        }

    def _checkpoint(
        self, whole: dict[str, Any], train: Mapping[str, Any] = MappingProxyType({})
    ) -> str:
        """Where the dense model is stored; how and with which method it is measured is no part.

        `train` replaces settings of its training.
        """
        config, code = whole["config"], whole["code"]
        # Not the code of the meters of inference: changing those must not train all models again.
        content = {block: config[block] for block in identity.DENSE_BLOCKS}
        own = {k: v for k, v in content["train"].items() if k not in identity.NOT_OF_DENSE}
        content["train"] = {**own, **train}
        content["entry_points"] = {k: config["entry_points"][k] for k in ("task", "backbone")}
        content["code"] = {
            **{kind: code[kind] for kind in ("task", "backbone")},
            "training": self._once(
                "training", lambda: identity.key_of(identity.training_closure())[:16]
            ),
        }
        content |= {part: whole[part] for part in ("versions", "hardware", "data")}
        return layout.checkpoint_path(identity.key_of(content))

    def _versions(self, plugins: Mapping[str, Plugin]) -> dict[str, str]:
        ours = {
            name: self.versions[name] for name in identity.KEY_PACKAGES if name in self.versions
        }
        foreign = {p.distribution: p.version for p in plugins.values()}
        foreign.pop("condbench", None)  # its code is hashed: a new version alone changes nothing
        return {**ours, **foreign}

    def _code(self, plugin: Plugin) -> str:
        module = plugin.target.partition(":")[0]
        return self._once(
            ("code", module, plugin.distribution),
            lambda: identity.code_hash(module, plugin.distribution),
        )

    def _controlled(self, settings: Config) -> dict[str, Plugin]:
        """The method that a method's setting `of` names, as random_skip and oracle do."""
        name = settings.get(identity.CONTROLLED)
        known = self._once("methods", lambda: choices("method")) if isinstance(name, str) else {}
        return {identity.CONTROLLED: known[name]} if name in known else {}

    def _loads(self, path: str | None) -> dict[str, str]:
        """What a recorded routing was read as: another record at the same path is another trial."""
        if path is None:
            return {}
        return {"loads": self._once(("loads", path), lambda: identity.key_of(recorded_loads(path)))}

    def _check(self, plugin: Plugin, settings: Config) -> None:
        """Make the plugin once: a setting is refused before anything runs, not hours later."""
        what = ("made", plugin.target, self._text(settings))
        try:
            self._once(what, lambda: _made(plugin, settings))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{plugin.kind}={plugin.name}: {error}") from error
        except Unsupported:  # the trial raises it again, and its record is a skipped row
            self._shared[what] = None
        except BrokenPlugin:
            raise
        except Exception as error:  # whatever the plugin's own code does with its settings
            why = f"{type(error).__name__}: {error}"
            raise ValueError(f"{plugin.kind}={plugin.name}: {why}") from error

    def _data(self, task: Plugin, settings: Config) -> str:
        return self._once(
            ("data", task.target, self._text(settings)), lambda: _data_hash(task, settings)
        )

    def _text(self, settings: Config) -> str:
        """Canonical JSON, once per dict: trials share the settings that no axis touches."""
        if id(settings) not in self._texts:
            self._texts[id(settings)] = (settings, identity.canonical(settings))
        return self._texts[id(settings)][1]

    def _defaults(self, plugin: Plugin) -> Config:
        return self._once(("defaults", plugin.target), lambda: defaults(plugin.load()))

    def _once(self, what: Any, find: Any) -> Any:
        # Hashing code and data takes seconds, and a plan may hold ten thousand trials.
        if what not in self._shared:
            self._shared[what] = find()
        return self._shared[what]


def _made(plugin: Plugin, settings: Config) -> Any:
    """The plugin's instance, with what it declares checked: hooks, points, recipe."""
    made = construct(plugin.load(), settings)
    if plugin.kind == "method":
        hooks = resolve(made).hooks
        if hooks.points is not None:
            hooks.points()
    elif plugin.kind == "task":
        getattr(made, "recipe", None)  # a property: Recipe raises for what cannot be trained with
    return made


def _data_hash(task: Plugin, settings: Config) -> str:
    try:
        return str(construct(task.load(), settings).data_hash())
    except BrokenPlugin:
        raise
    except Exception as error:  # whatever a task does where its data is missing
        raise task.broken(f"{type(error).__name__}: {error}") from error
