"""Settings of plugins when a run is planned: the declared type and range, or one sentence."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import pytest

from bench import plugins
from bench.plan.compose import variant
from bench.plan.matrix import PlanError, make_plan
from bench.plugins import construct

if TYPE_CHECKING:
    from conftest import House

HEAD = """
from __future__ import annotations
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated
from bench.types import OneOf, Range, Recipe, Unsupported
if TYPE_CHECKING:
    from fractions import Fraction

@dataclass
class Mine:
    '''A method with one setting of interest.'''

    {}

    def build(self, spec, backbone): ...
"""


@pytest.fixture
def mine(house: House) -> Any:
    """Writes the method `mine` with a body of its own into a module of the house."""

    def write(body: str, kind: str = "method") -> None:
        sys.modules.pop("fakehouse.mine", None)
        (house.source.parent / "mine.py").write_text(HEAD.format(body.replace("\n", "\n    ")))
        house.offer(kind, mine="fakehouse.mine:Mine")

    return write


def planned(*overrides: str) -> Any:
    """The method `mine` as a trial makes it: from what trial.json holds."""
    trial = make_plan(["method=mine", *overrides]).trials[-1]
    config = json.loads(json.dumps(trial.content()))["config"]
    return construct(plugins.find("method", "mine").load(), config["method"])


def refused(*overrides: str) -> str:
    with pytest.raises(PlanError) as caught:
        make_plan(["method=mine", *overrides])
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("body", "override", "message"),
    [
        (
            "experts: Annotated[int, Range(1, 64)] = 8",
            "experts=0",
            "method=mine: experts=0: must be at least 1 and at most 64",
        ),
        (
            "factor: Annotated[float | None, Range(gt=0)] = None",
            "factor=-1",
            "method=mine: factor=-1.0: must be above 0",
        ),
        (
            "kind: Annotated[str, OneOf('a', 'b')] = 'a'",
            "kind=c",
            "method=mine: kind='c': choose one of 'a', 'b'",
        ),
        (
            "widths: list[Annotated[float, Range(gt=0)]] = field(default_factory=lambda: [1.0])",
            "widths=[1,0]",
            "method=mine: widths=0.0: must be above 0",
        ),
        (
            "k: int = 1\ndef __post_init__(self):\n    8 % self.k",
            "k=0",
            "method=mine: ZeroDivisionError: integer ",
        ),
    ],
)
def test_a_setting_out_of_range_is_refused_when_planned(
    mine: Any, body: str, override: str, message: str
) -> None:
    """One sentence with the setting, the value and what is allowed; nothing is trained."""
    mine(body)
    assert refused(f"method.{override}").startswith(message)


def test_the_rest_of_a_sweep_is_planned(mine: Any) -> None:
    """The cells within the range are; the others are named."""
    mine("experts: Annotated[int, Range(1)] = 8")
    plan = make_plan(["method=mine", "method.experts=0,2"])
    assert [trial.labels.variant for trial in plan.trials if trial.labels.method == "mine"] == [
        "experts=2"
    ]
    assert plan.left_out == ["method.experts=0: method=mine: experts=0: must be at least 1"]


def test_a_default_outside_its_range_is_refused(mine: Any) -> None:
    """Also where nobody sets it."""
    mine("experts: Annotated[int, Range(1)] = 0")
    assert refused() == "method=mine: experts=0: must be at least 1"


def test_keys_of_a_dict_arrive_as_declared(mine: Any) -> None:
    """JSON has text for keys; the method gets numbers, by default and from the command line."""
    mine("widths: dict[int, float] = field(default_factory=lambda: {8: 0.5})")
    assert planned().widths == {8: 0.5}
    assert planned("method.widths={4:1,16:0.25}").widths == {4: 1.0, 16: 0.25}


def test_a_tuple_and_a_path_arrive_as_declared(mine: Any) -> None:
    """A list and text in JSON."""
    mine("steps: tuple[int, ...] = (1, 2)\nscale: float = 1")
    assert (planned().steps, planned("method.steps=[3]").steps) == ((1, 2), (3,))
    assert repr(planned("method.scale=2").scale) == "2.0"


def test_a_field_without_init_is_planned_and_cannot_be_set(mine: Any) -> None:
    """The class makes it itself, without a default too, also in a nested dataclass."""
    mine(
        "given: int = 2\nmade: int = field(init=False)\n"
        "def __post_init__(self):\n    self.made = 2 * self.given"
    )
    assert (planned().made, planned("method.given=5").made) == (4, 10)
    assert "unknown key 'made' in method: choices: given" in refused("method.made=1")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("ratio: Fraction | None = None", "Mine.ratio: 'Fraction' in its annotation"),
        ("some: set[int] = field(default_factory=set)", "Mine.some: set[int] is not a type of"),
        ("raw: bytes = b'x'", "Mine.raw: bytes is not a type of settings"),
        (
            "by_pair: dict[tuple[int, int], int] = field(default_factory=dict)",
            "Mine.by_pair: a dict's keys are str, int, float, bool or an Enum",
        ),
    ],
)
def test_an_annotation_that_cannot_be_kept_is_refused_by_name(
    mine: Any, body: str, words: str
) -> None:
    """The class and the field are named, in one line, before anything runs."""
    mine(body)
    assert f"its settings cannot be typed: {words}" in refused()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("loss = 3", "method=mine: Mine.loss is 3, which cannot be called"),
        (
            "def points(self): return [{'k': float('nan')}]\ndef set_point(self, *given): ...",
            "method=mine: Mine.points()[0]['k'] is nan: must be finite",
        ),
        ("train_share = -1.0", "method=mine: Mine.train_share is -1.0: must be at least 0"),
    ],
)
def test_what_a_method_declares_is_judged_when_planned(mine: Any, body: str, message: str) -> None:
    """Hooks, flags and operating points, before the dense model is trained."""
    mine(body)
    assert refused() == message


def test_a_recipe_is_judged_when_planned(mine: Any, house: House) -> None:
    """A task that cannot be trained is named with the field."""
    mine(
        "@property\ndef recipe(self): return Recipe(4, 4, -1.0)\n"
        "def data_hash(self): return 'x'\ndef evaluate(self, model, batches): ...",
        kind="task",
    )
    with pytest.raises(PlanError, match=r"^task=mine: Recipe.lr is -1.0: must be above 0$"):
        make_plan(["task=mine"])


def test_unsupported_settings_are_planned(mine: Any) -> None:
    """That is an answer, and becomes a skipped row with its reason."""
    mine("def __post_init__(self): raise Unsupported('needs tokens')")
    assert [trial.labels.method for trial in make_plan(["method=mine"]).trials] == ["dense", "mine"]


def test_the_kit_builds_from_what_a_trial_builds_from(mine: Any) -> None:
    """`condbench check` takes a method's settings from the composition, as a plan does."""
    mine("widths: dict[int, float] = field(default_factory=lambda: {8: 1})\nscale: float = 1")
    plugin, settings = variant("method", "mine")
    trial = make_plan(["method=mine"]).trials[-1]
    assert settings == trial.config["method"] == {"widths": {"8": 1.0}, "scale": 1.0}
    assert (plugin.name, plugin.target) == ("mine", "fakehouse.mine:Mine")


def test_the_kit_needs_a_value_for_every_setting(mine: Any) -> None:
    """A setting without a default cannot be checked, and is named."""
    mine("experts: int")
    with pytest.raises(PlanError, match=r"^mine: no value for experts: it has no default, give"):
        variant("method", "mine")
