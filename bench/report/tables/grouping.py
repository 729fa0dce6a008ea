"""Which trials share a table, and which of them count.

    one table   hardware, task, backbone, measure profile, and all other settings of the config
                except method and seed: different hardware is never averaged

Of the trials of one row that ran different code, package versions, settings or data, the newest
decides. The others are named and left out: a mean over them would mean nothing.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from bench.records.reading import Found, config_block, profile
from bench.records.record import Labels

# What differs from the defaults: the method's own settings, then the shared ones with their block.
SHARED_SETTINGS = re.compile(r"(?:^|,)((?:backbone|task|train|gpu)\..*)$", re.DOTALL)
FORWARD = "forward"
WORKLOAD = "measure.workload"  # a title names it wherever it is not FORWARD
FORCE_SHARE = "measure.force_share"  # a title names it wherever it is set
OWN_ROUTING = "own"
ROUTING = "measure.routing"  # a title names it wherever it is not OWN_ROUTING
ONE_OF_EQUAL_DEVICES = re.compile(r"(?:^|,)gpu\.device=[^,]*")


class TableKey(NamedTuple):
    """What all rows of a table have in common."""

    hardware: str
    device: str
    task: str
    backbone: str
    profile: str
    conditions: str  # canonical JSON of all settings but method, seed and which device it was


def table_key(found: Found) -> TableKey:
    """The table that a record belongs to; from its config, which a dead child's record has too."""
    labels = found.record.labels
    blocks = ("task", "backbone", "train", "measure", "gpu")
    settings = {name: dict(config_block(found.record, name)) for name in blocks}
    settings["gpu"].pop("device", None)  # which of several equal GPUs it was
    settings["train"].setdefault("flops", None)
    settings["train"].setdefault("fine_tune_lr_share", 1.0)
    settings["measure"].setdefault("workload", FORWARD)  # older records had no other
    settings["measure"].setdefault("force_share", None)
    settings["measure"].setdefault("routing", OWN_ROUTING)
    settings["measure"].setdefault("routing_from", None)
    settings["measure"].setdefault("ratios_only", False)
    conditions = json.dumps(_flat(settings), sort_keys=True, default=str)
    where = (labels.hardware, labels.device, labels.task, labels.backbone)
    return TableKey(*where, profile(found.record), conditions)


def _flat(block: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings under dotted names."""
    flat: dict[str, Any] = {}
    for name, value in block.items():
        nested = isinstance(value, dict)
        flat |= _flat(value, f"{prefix}{name}.") if nested else {f"{prefix}{name}": value}
    return flat


def own_variant(labels: Labels) -> str:
    """The part of the variant that is the method's: all rows of a table share the rest."""
    return SHARED_SETTINGS.sub("", labels.variant)


def _shared_variant(labels: Labels) -> str:
    found = SHARED_SETTINGS.search(labels.variant)
    return ONE_OF_EQUAL_DEVICES.sub("", found.group(1)).lstrip(",") if found else ""


def subtitles(groups: Mapping[TableKey, Sequence[Found]]) -> dict[TableKey, str]:
    """Per table the shared settings that are not the defaults, and what else distinguishes it.

    Tables of one name can also differ in settings that no variant names, how they were measured
    above all.
    """
    # Tables with one name: all of the key is equal but the conditions.
    namesakes: dict[tuple[str, ...], list[TableKey]] = defaultdict(list)
    for key in groups:
        namesakes[key[:-1]].append(key)
    shared = {key: _shared_variant(found[0].record.labels) for key, found in groups.items()}
    return {
        key: ", ".join(
            filter(
                None,
                [
                    _workload(key),
                    _share(key),
                    _routing(key),
                    shared[key].replace(",", ", "),
                    *differences,
                ],
            )
        )
        for same in namesakes.values()
        for key, differences in _unnamed_differences(same, " ".join(shared[k] for k in same))
    }


def _workload(key: TableKey) -> str:
    workload = json.loads(key.conditions).get(WORKLOAD, FORWARD)
    return "" if workload == FORWARD else f"workload={workload}"


def _share(key: TableKey) -> str:
    share = json.loads(key.conditions).get(FORCE_SHARE)
    return "" if share is None else f"gates forced to run a share of {share:g}"


def _routing(key: TableKey) -> str:
    routing = json.loads(key.conditions).get(ROUTING, OWN_ROUTING)
    return "" if routing == OWN_ROUTING else f"routing={routing}"


def _unnamed_differences(same: Sequence[TableKey], named: str) -> list[tuple[TableKey, list[str]]]:
    """The settings in which namesakes differ and that `named` does not mention."""
    settings = [json.loads(key.conditions) for key in same]
    every = {name for flat in settings for name in flat}
    # These have a place of their own in the title.
    every -= {WORKLOAD, FORCE_SHARE, ROUTING}
    names = sorted(name for name in every if f"{name}=" not in named)
    # Serialised for comparison: a setting may be a list or a mapping, which do not hash.
    differ = [n for n in names if len({json.dumps(flat.get(n)) for flat in settings}) > 1]
    return [
        (key, [f"{name}={flat.get(name)}" for name in differ])
        for key, flat in zip(same, settings, strict=True)
    ]


def current_trials(group: Sequence[Found]) -> tuple[list[Found], list[tuple[Found, str]]]:
    """One trial per seed, all of the newest trial's identity; and the others with the reason."""
    # A trial that died early may lack an identity: the newest one that has it decides.
    newest_first = sorted(group, key=lambda item: item.started_unix_s, reverse=True)
    identity = next((i for i in map(_identity, newest_first) if i is not None), None)
    kept: dict[int, Found] = {}
    old: list[tuple[Found, str]] = []
    for item in newest_first:
        own = _identity(item)
        if own is not None and own != identity:
            old.append((item, "a newer trial of this row ran other code, versions or settings"))
        elif item.record.labels.seed in kept:
            old.append((item, f"a newer trial of this row has seed {item.record.labels.seed}"))
        else:
            kept[item.record.labels.seed] = item
    return [kept[seed] for seed in sorted(kept)], old


def _identity(found: Found) -> str | None:
    """Code, package versions, data and the method's settings; None where the record lacks them."""
    identity = found.record.provenance.get("identity")
    if not isinstance(identity, dict):
        return None
    parts = [identity.get(name) for name in ("code", "versions", "data")]
    return json.dumps([*parts, found.record.config.get("method")], sort_keys=True, default=str)
