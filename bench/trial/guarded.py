"""A method while it is prepared: changing what dense runs under ends the trial, by name."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from bench.meters.shared.state import SharedState, settings_kept
from bench.plugins.hooks import Hooks
from bench.types import Backbone, Task

MAKE_A_MODEL = ("build", "convert", "calibrate")


def shared_with(task: Task, backbone: Backbone) -> SharedState:
    """What the method shares with the dense model, as it is before the method is imported."""
    return SharedState([type(each).__module__.partition(".")[0] for each in (task, backbone)])


def guarded(hooks: Hooks) -> Hooks:
    """The same hooks; those that make a model raise SharedStateChanged by their own name."""

    def guard(name: str) -> Any:
        hook = getattr(hooks, name)

        def call(*given: Any) -> Any:
            with settings_kept(f"the method's {name}"):
                return hook(*given)

        return hook and call

    return replace(hooks, **{name: guard(name) for name in MAKE_A_MODEL})
