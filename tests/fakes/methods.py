"""Methods that are nothing but some hooks and flags."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from bench.plugins.hooks import DEFAULT_HOOKS, FLAGS, Flags, ResolvedMethod


def method_of(**given: Any) -> ResolvedMethod:
    """A resolved method with these hooks and flags, all others at their defaults."""
    flags = {name: value for name, value in given.items() if name in FLAGS}
    hooks = {name: value for name, value in given.items() if name not in FLAGS}
    return ResolvedMethod(None, replace(DEFAULT_HOOKS, **hooks), Flags(**flags))
