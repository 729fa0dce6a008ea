"""Plugins: which there are, what their settings are, and what they offer.

choices     entry points become choices: methods, backbones and tasks
annotations which types the settings of a plugin's dataclass may have
settings    from JSON to these types, within their ranges
hooks       a method resolved once into what it does and what it is
points      operating points, checked as a method declares them
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
    variant_packages,
)
from bench.plugins.settings import construct, defaults

__all__ = [
    "DOORS",
    "GROUPS",
    "NAME",
    "BrokenPlugin",
    "Plugin",
    "PluginError",
    "choices",
    "construct",
    "defaults",
    "find",
    "first_sentence",
    "summary",
    "unknown",
    "variant_packages",
]
