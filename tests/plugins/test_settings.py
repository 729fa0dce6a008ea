"""Settings arrive as the types that a plugin declares, within their ranges, or are refused."""

from __future__ import annotations

import builtins
import enum
import re
import sys
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import pytest

from bench import plugins
from bench.plugins.annotations import setting_types
from bench.plugins.settings import as_json, construct, defaults
from bench.types import OneOf, Range

if TYPE_CHECKING:
    from fractions import Fraction

    from conftest import House


class Order(enum.Enum):
    TOKENS = "tokens first"
    EXPERTS = "experts first"


@dataclass
class Inner:
    rate: Annotated[float, Range(gt=0, le=1)] = 0.5
    table: dict[int, float] = field(default_factory=dict)


@dataclass
class Everything:
    """One setting of every kind that a plugin may have."""

    whole: Annotated[int, Range(1, 8)] = 4
    real: Annotated[float | None, Range(gt=0)] = None
    word: Annotated[str, OneOf("gelu", "relu")] = "gelu"
    either: int | str = 3
    switch: bool = False
    path: Path = Path("data")
    order: Order = Order.TOKENS
    shares: list[Annotated[float, Range(0, 1)]] = field(default_factory=lambda: [0.5])
    pair: tuple[int, float] = (1, 2.0)
    many: tuple[int, ...] = (1, 2)
    widths: dict[int, float] = field(default_factory=lambda: {8: 0.5})
    by_order: dict[Order, bool] = field(default_factory=lambda: {Order.TOKENS: True})
    inner: Inner = field(default_factory=lambda: Inner(0.25, {2: 1.0}))
    anything: Any = None


def test_construct_makes_nested_dataclasses_from_dicts(house: House) -> None:
    """Settings as JSON holds them become the plugin with its nested settings."""
    moe = plugins.construct(
        plugins.find("method", "moe").load(), {"num_experts": 4, "router": {"rate": 0.25}}
    )
    assert (moe.num_experts, moe.top_k, moe.router.rate) == (4, 1, 0.25)


def test_construct_makes_members_of_enumerations_from_their_names(house: House) -> None:
    """JSON holds a member's name; the method gets the member, inside lists and options too."""
    house.offer("method", ordered="Ordered")
    cls = plugins.find("method", "ordered").load()
    order = sys.modules["fakehouse"].Order
    settings = {"order": "EXPERTS", "maybe": "TOKENS", "several": ["TOKENS", "EXPERTS"]}
    made = plugins.construct(cls, {**settings, "named": {"a": "EXPERTS"}})
    assert [made.order, made.maybe] == [order.EXPERTS, order.TOKENS]
    assert all(type(member) is order for member in (made.order, made.maybe, *made.several))
    assert made.named == {"a": order.EXPERTS}
    assert plugins.construct(cls, {"maybe": None}).maybe is None
    with pytest.raises(ValueError, match="order='FIRST': choose one of TOKENS, EXPERTS"):
        plugins.construct(cls, {"order": "FIRST"})


def test_construct_refuses_unknown_settings(house: House) -> None:
    """A setting that the class does not have is an error, not ignored."""
    with pytest.raises(TypeError, match="num_expert"):
        plugins.construct(plugins.find("method", "moe").load(), {"num_expert": 4})


@pytest.mark.parametrize("settings", [None, 5, "depth", ["depth"], True])
def test_settings_are_a_mapping(house: House, settings: Any) -> None:
    """As a damaged trial.json may hold them."""
    import fakehouse

    with pytest.raises(TypeError, match=r"the settings of MoE are .* a mapping is needed"):
        construct(fakehouse.MoE, settings)


def test_every_type_survives_the_way_through_json() -> None:
    """What the defaults are as JSON makes an instance that equals the defaults."""
    assert construct(Everything, defaults(Everything)) == Everything()
    changed = Everything(real=2.0, either="x", order=Order.EXPERTS, widths={1: 1.0, 16: 0.0})
    assert construct(Everything, as_json(changed)) == changed


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"widths": {"8": 1}}, {8: 1.0}),
        ({"real": 3}, 3.0),
        ({"many": [3, 4]}, (3, 4)),
        ({"pair": [3, 4]}, (3, 4.0)),
        ({"by_order": {"EXPERTS": False}}, {Order.EXPERTS: False}),
        ({"path": "elsewhere"}, Path("elsewhere")),
        ({"inner": {"rate": 1, "table": {"5": 2}}}, Inner(1.0, {5: 2.0})),
        ({"either": "three"}, "three"),
    ],
)
def test_the_declared_type_arrives(settings: dict[str, Any], expected: Any) -> None:
    """Keys of dicts, tuples, members, paths and floats are those of the annotation."""
    (name,) = settings
    found = getattr(construct(Everything, settings), name)
    assert (found, type(found)) == (expected, type(expected))
    assert repr(found) == repr(expected)  # 1 == 1.0, and {1: 2} == {1: 2.0}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"whole": 0}, "whole=0: must be at least 1 and at most 8"),
        ({"whole": 9}, "whole=9: must be at least 1 and at most 8"),
        ({"real": 0}, "real=0.0: must be above 0"),
        ({"real": float("nan")}, "real=nan: must be above 0, and finite"),
        ({"real": float("inf")}, "real=inf: must be above 0, and finite"),
        ({"word": "tanh"}, "word='tanh': choose one of 'gelu', 'relu'"),
        ({"shares": [0.5, 1.5]}, "shares=1.5: must be at least 0 and at most 1"),
        ({"inner": {"rate": 0}}, "inner.rate=0.0: must be above 0 and at most 1"),
        ({"order": "FIRST"}, "order='FIRST': choose one of TOKENS, EXPERTS"),
        ({"widths": {"wide": 1}}, "widths has the key 'wide': declared as int"),
    ],
)
def test_a_value_out_of_range_is_refused_with_the_range(
    settings: dict[str, Any], message: str
) -> None:
    """One sentence: the setting, its value, and what is allowed."""
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        construct(Everything, settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"whole": 1.5}, "whole=1.5: declared as int"),
        ({"whole": True}, "whole=True: declared as int"),
        ({"whole": None}, "whole=None: declared as int"),
        ({"switch": 1}, "switch=1: declared as bool"),
        ({"word": 3}, "word=3: declared as str"),
        ({"shares": 0.5}, "shares=0.5: declared as list[typing.Annotated[float, Range"),
        ({"pair": [1]}, "pair=[1]: declared with 2 elements"),
        ({"wohle": 1}, "unknown setting 'wohle': did you mean 'whole'?"),
        ({"inner": {"rat": 1}}, "unknown setting 'inner.rat': did you mean 'inner.rate'?"),
    ],
)
def test_a_value_of_another_type_is_refused(settings: dict[str, Any], message: str) -> None:
    """JSON written by hand is checked like an override."""
    with pytest.raises(TypeError) as caught:
        construct(Everything, settings)
    assert str(caught.value).startswith(message)


def test_a_default_outside_its_own_range_is_refused() -> None:
    """A range holds for what nobody sets, too, and before the class's own code divides by it."""

    @dataclass
    class Wrong:
        num_groups: Annotated[int, Range(1)] = 0

        def __post_init__(self) -> None:
            self.size = 8 // self.num_groups

    with pytest.raises(ValueError, match=r"^num_groups=0: must be at least 1$"):
        construct(Wrong, {})
    assert construct(Wrong, {"num_groups": 4}).size == 2


def test_a_limit_may_be_any_object_with_a_problem() -> None:
    """A plugin may bring its own."""

    class Even:
        def problem(self, value: int) -> str:
            return "must be even" if value % 2 else ""

    @dataclass
    class Paired:
        heads: int = 2

    Paired.__annotations__["heads"] = Annotated[int, Even()]
    with pytest.raises(ValueError, match=r"^heads=3: must be even$"):
        construct(Paired, {"heads": 3})


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        (set[int], "set[int] is not a type of settings"),
        (bytes, "bytes is not a type of settings"),
        (complex, "complex is not a type of settings"),
        (list[set[int]], "set[int] is not a type of settings"),
        (dict[tuple[int, int], int], "a dict's keys are str, int, float, bool or an Enum"),
        (int | bytes, "bytes is not a type of settings"),
    ],
)
def test_a_type_that_json_cannot_bring_back_is_refused_by_name(annotation: Any, words: str) -> None:
    """Such a setting would silently arrive as another type."""

    @dataclass
    class Odd:
        given: Any = None

    Odd.__annotations__["given"] = annotation
    with pytest.raises(TypeError) as caught:
        setting_types(Odd)
    assert str(caught.value).startswith("Odd.given: ")
    assert words in str(caught.value)


def test_an_annotation_that_is_unknown_at_run_time_is_named() -> None:
    """Names under TYPE_CHECKING are there for mypy only."""

    @dataclass
    class Checked:
        fine: int = 1
        ratio: Fraction | None = None

    with pytest.raises(TypeError, match=r"^Checked.ratio: 'Fraction' in its annotation .* unknown"):
        construct(Checked, {})


def test_a_field_without_init_is_no_setting() -> None:
    """It is neither a default nor accepted; the class makes it itself."""

    @dataclass
    class Computed:
        given: int = 2
        made: int = field(init=False)
        counted: list[int] = field(init=False, default_factory=list)

        def __post_init__(self) -> None:
            self.made = 2 * self.given

    assert defaults(Computed) == {"given": 2}
    assert construct(Computed, {"given": 4}).made == 8
    assert as_json(Computed(3)) == {"given": 3}
    with pytest.raises(TypeError, match="unknown setting 'made'"):
        construct(Computed, {"made": 1})


def test_an_element_with_a_field_without_init_is_refused() -> None:
    """Inside a list every field of an element would become a key."""

    @dataclass
    class Part:
        made: int = field(init=False, default=1)

    @dataclass
    class Whole:
        parts: Any = field(default_factory=list)

    Whole.__annotations__["parts"] = list[Part]
    with pytest.raises(TypeError, match=r"^Whole.parts: Part.made is a field\(init=False\)"):
        setting_types(Whole)


@pytest.mark.parametrize(
    ("annotation", "good", "bad"),
    [
        (Annotated[str, OneOf("auto")] | Annotated[int, Range(1)], ["auto", 5], ["b", 0]),
        (Annotated[int, Range(1)] | Annotated[float, Range(0, 1)], [5, 0.5], [0, 1.5]),
        (Annotated[int, Range(1)] | list[Annotated[float, Range(0, 1)]], [3, [0.5]], [0, [2.0]]),
        (Annotated[int | None, Range(1)] | str, [None, 2, "all"], [0]),
        (Annotated[float, Range(0, 1)] | None, [None, 1], [2]),
    ],
)
def test_a_union_applies_the_limits_of_the_option_that_a_value_is(
    annotation: Any, good: list[Any], bad: list[Any]
) -> None:
    """A number is none of several texts, a share no number of experts."""
    cls = dataclass(type("Made", (), {"__annotations__": {"x": annotation}}))
    for value in good:
        assert construct(cls, {"x": value}).x == value
    for value in bad:
        with pytest.raises(ValueError, match=r"^x="):
            construct(cls, {"x": value})


@pytest.mark.parametrize("name", ["List", "Dict", "Tuple"])
def test_containers_without_a_type_of_elements_have_no_limits(name: str) -> None:
    """`typing.List` has an origin as list[int] has, and no arguments."""
    value = {"a": 1} if name == "Dict" else [1, "b"]
    for annotation in (getattr(typing, name), getattr(builtins, name.lower())):
        cls = dataclass(type("Made", (), {"__annotations__": {"x": annotation}}))
        wanted = tuple(value) if name == "Tuple" else value
        assert construct(cls, {"x": value}).x == wanted


@pytest.mark.parametrize("annotation", [float, Annotated[int, Range(1)], float | None])
def test_an_integer_that_no_float_holds_is_refused_by_name(annotation: Any) -> None:
    """Comparisons and figures are made with floats."""
    cls = dataclass(type("Made", (), {"__annotations__": {"x": annotation}}))
    with pytest.raises(ValueError, match=r"^x.*(which no float can hold|finite)$"):
        construct(cls, {"x": 10**400})


@dataclass
class Tree:
    """A dataclass that holds itself."""

    child: Tree | None = None


def test_a_dataclass_that_holds_itself_is_refused_by_name() -> None:
    """OmegaConf would descend without end."""
    with pytest.raises(TypeError, match=r"^Tree.child: a dataclass that holds itself"):
        construct(Tree, {})
