"""Plugins are found by entry points, loaded when asked for, and named when they are broken."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from bench import plugins
from bench.plugins import BrokenPlugin, PluginError

if TYPE_CHECKING:
    from conftest import House


def test_choices_are_sorted_names_of_installed_entry_points(house: House) -> None:
    """Every entry point of a group is a choice, sorted by name."""
    house.offer("method", another="MoE")
    assert list(plugins.choices("method")) == ["another", "dense", "moe"]


def test_listing_choices_imports_nothing(house: House) -> None:
    """Names are known without importing the plugin's module."""
    plugins.choices("method")
    assert "fakehouse" not in sys.modules


def test_a_plugin_knows_its_distribution(house: House) -> None:
    """A plugin carries name and version of the distribution that declares it."""
    moe = plugins.find("method", "moe")
    assert (moe.distribution, moe.version, moe.target) == ("fakehouse", "1.0", "fakehouse:MoE")


def test_load_gives_the_class(house: House) -> None:
    """Loading imports the module and returns the dataclass."""
    assert plugins.find("method", "moe").load().__name__ == "MoE"


def test_an_unknown_name_lists_the_choices_nearest_first(house: House) -> None:
    """A name that nothing has is answered with the nearest one and all choices."""
    with pytest.raises(PluginError) as caught:
        plugins.find("method", "mow")
    assert str(caught.value) == "unknown method 'mow': did you mean 'moe'? choices: dense, moe"


def test_nothing_near_means_no_suggestion() -> None:
    """A name unlike every choice gets the choices only."""
    assert plugins.unknown("task", "xyz", ["b", "a"]) == "unknown task 'xyz': choices: a, b"


@pytest.mark.parametrize(
    ("statement", "cause"),
    [
        (
            "import no_such_module_here",
            "ModuleNotFoundError: No module named 'no_such_module_here'",
        ),
        ("raise RuntimeError('no driver')", "RuntimeError: no driver"),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
    ],
)
def test_a_plugin_that_fails_to_import_is_named_with_its_cause(
    house: House, statement: str, cause: str
) -> None:
    """Whatever an import does, the error names plugin, distribution, target and cause."""
    (house.source.parent / "bad.py").write_text(statement)
    house.offer("method", bad="fakehouse.bad:Bad")
    with pytest.raises(BrokenPlugin) as caught:
        plugins.find("method", "bad").load()
    assert str(caught.value) == (
        f"method 'bad' (fakehouse 1.0, fakehouse.bad:Bad) cannot be used: {cause}"
    )


@pytest.mark.parametrize("name", ["..", "a/../../up", "we$ird", "-dash", "comma,comma", "dot."])
def test_a_name_that_is_no_part_of_a_path_is_a_broken_plugin(house: House, name: str) -> None:
    """Folders and overrides are made of names: an odd one is named and never used."""
    house.offer("method", **{name: "MoE"})
    with pytest.raises(BrokenPlugin, match="its name may hold letters, digits"):
        plugins.find("method", name).load()


def test_a_missing_class_is_a_broken_plugin(house: House) -> None:
    """An entry point whose class is not in its module is broken."""
    house.offer("method", lost="Lost")
    with pytest.raises(BrokenPlugin, match="has no attribute 'Lost'"):
        plugins.find("method", "lost").load()


def test_a_class_that_is_no_dataclass_is_a_broken_plugin(house: House) -> None:
    """Settings are typed by a dataclass, so anything else is refused."""
    house.source.write_text("class Plain:\n    def build(self): ...\n")
    house.offer("method", plain="Plain")
    with pytest.raises(BrokenPlugin, match="fakehouse:Plain is not a dataclass"):
        plugins.find("method", "plain").load()


def test_a_method_without_build_or_convert_is_a_broken_plugin(house: House) -> None:
    """A class that lacks its kind's entrance cannot be used as that kind."""
    house.offer("method", task="Digits")
    with pytest.raises(BrokenPlugin, match=r"has no build\(\) or convert\(\) or wrap\(\)"):
        plugins.find("method", "task").load()


def test_one_name_for_two_classes_is_refused(house: House) -> None:
    """Two distributions that claim one name are both named."""
    other = house.source.parents[1] / "otherhouse-2.0.dist-info"
    other.mkdir()
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: otherhouse\nVersion: 2.0\n")
    (other / "entry_points.txt").write_text("[fakehouse.method]\nmoe = otherhouse:MoE\n")
    with pytest.raises(
        PluginError, match=r"'moe' is provided twice: .*otherhouse.*; uninstall one"
    ):
        plugins.choices("method")


def test_summary_is_the_first_sentence(house: House) -> None:
    """The one-line description is the docstring's first sentence, lines joined."""
    house.source.write_text(
        "from dataclasses import dataclass\n\n@dataclass\nclass Long:\n"
        '    """Skips what\n    can be skipped. More about it.\n\n    And more."""\n'
        "    def build(self, spec, backbone): ...\n"
    )
    house.offer("method", long="Long")
    assert plugins.summary(plugins.find("method", "long")) == "Skips what can be skipped."


def test_a_class_without_docstring_has_no_summary(house: House) -> None:
    """The signature that dataclass writes as a docstring describes nothing."""
    house.source.write_text(
        "from dataclasses import dataclass\n\n@dataclass\nclass Bare:\n    x: int = 1\n"
        "    def build(self, spec, backbone): ...\n"
    )
    house.offer("method", bare="Bare")
    assert plugins.summary(plugins.find("method", "bare")) == ""
