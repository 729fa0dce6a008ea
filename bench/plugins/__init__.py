"""Plugins: which there are, what their settings are, and what they offer.

choices     entry points become choices: methods, backbones and tasks
settings    from JSON to the types that a plugin's dataclass declares
hooks       a method resolved once into what it does and what it is
extras      the same for a task's optional data
"""

from bench.plugins.choices import (
    DOORS,
    GROUPS,
    NAME,
    BrokenPlugin,
    Plugin,
    PluginError,
    choices,
    find,
    first_sentence,
    summary,
    unknown,
)
from bench.plugins.settings import construct

__all__ = [
    "DOORS",
    "GROUPS",
    "NAME",
    "BrokenPlugin",
    "Plugin",
    "PluginError",
    "choices",
    "construct",
    "find",
    "first_sentence",
    "summary",
    "unknown",
]
