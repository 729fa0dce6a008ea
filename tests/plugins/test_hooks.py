"""A method is resolved once: what it declares is judged then, and the field is named."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from bench.plugins.hooks import Flags, resolve


@dataclass
class Plain:
    """Nothing but build."""

    def build(self, spec: Any, backbone: Any) -> str:
        return f"{backbone} for {spec}"


@dataclass
class Pointed(Plain):
    """With operating points."""

    given: Any = None

    def points(self) -> Any:
        return self.given

    def set_point(self, model: Any, point: Any) -> None:
        pass


def test_defaults_are_those_of_the_contract() -> None:
    """A method with nothing but build has no other hook and every flag's default."""
    found = resolve(Plain())
    assert found.hooks.build("a task", "a trunk") == "a trunk for a task"
    assert (found.hooks.loss, found.hooks.points, found.flags) == (None, None, Flags())
    assert found.suspects == ()


def test_scalars_of_numpy_and_torch_become_those_of_python() -> None:
    """A record is JSON, which knows no float32."""
    point = {"k": np.int64(2), "share": np.float32(0.5), "at": torch.tensor(1.5), "name": "a"}
    (found,) = resolve(Pointed([point])).hooks.points()
    assert found == {"k": 2, "share": 0.5, "at": 1.5, "name": "a"}
    assert [type(value) for value in found.values()] == [int, float, float, str]


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ([{"k": float("nan")}], "Pointed.points()[0]['k'] is nan: must be finite"),
        ([{"k": 1}, {"k": np.inf}], "Pointed.points()[1]['k'] is inf: must be finite"),
        ([{"k": 1}, {"k": 1.0}], "Pointed.points()[1] is {'k': 1.0}, which is there already"),
        ([{"k": 1}, {"q": 2}], "Pointed.points()[1] has the keys ['q'], the default ['k']"),
        ([{"k": 1}, {}], "Pointed.points()[1] has the keys [], the default ['k']"),
    ],
)
def test_points_that_cannot_be_measured_are_refused(points: Any, message: str) -> None:
    """The place among the points and the key are named."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        resolve(Pointed(points)).hooks.points()
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ([{"k": [1]}], "Pointed.points()[0]['k'] is [1]: a number or text is needed"),
        ([{"k": True}], "Pointed.points()[0]['k'] is True: a number or text is needed"),
        ([{"k": None}], "Pointed.points()[0]['k'] is None: a number or text is needed"),
        ([{"k": np.zeros(2)}], "Pointed.points()[0]['k'] is array([0., 0.]): a number or text"),
        ([{1: 2}], "a key of Pointed.points()[0] is 1, which is not text"),
        ([0.5], 'Pointed.points()[0] is 0.5: a point is a dict, such as {"threshold": 0.9}'),
        ({"k": 1}, "Pointed.points() is {'k': 1}: a list of points is needed, the default first"),
        (None, "Pointed.points() is None: a list of points is needed, the default first"),
    ],
)
def test_points_of_another_type_are_refused(points: Any, message: str) -> None:
    """Text and numbers are what a record, a table and set_point have in common."""
    with pytest.raises(TypeError) as caught:
        resolve(Pointed(points)).hooks.points()
    assert str(caught.value).startswith(message)


def test_text_that_no_file_can_hold_is_escaped() -> None:
    """A lone surrogate would be refused when the record is written, after hours."""
    (found,) = resolve(Pointed([{"name": "a\udce4"}])).hooks.points()
    assert found == {"name": "a\\udce4"}


def with_attributes(**attributes: Any) -> Any:
    """A method with other attributes than Plain's."""
    return dataclass(type("Made", (Plain,), attributes))()


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"loss": 3}, "Made.loss is 3, which cannot be called"),
        (
            {"loss": lambda self, model, batch: 0},
            "Made.loss(model, batch) is called as loss(model, batch, criterion, progress):",
        ),
        (
            {"calibrate": lambda self, model, *, batches: None},
            "Made.calibrate(model, *, batches) is called as calibrate(model, batches)",
        ),
        ({"points": lambda self: []}, "points() and set_point(model, point) come together"),
        (
            {"batch_invariant": lambda self: False},
            "Made.batch_invariant is <bound method",
        ),
        ({"open_is_dense": "no"}, "Made.open_is_dense is 'no': True or False is needed, or a"),
        ({"compaction": 3}, "Made.compaction is 3: text is needed"),
        ({"train_share": "half"}, "Made.train_share is 'half', which is not a number"),
    ],
)
def test_hooks_and_flags_of_another_type_are_refused(
    attributes: dict[str, Any], message: str
) -> None:
    """A forgotten @property would count as true, a wrong signature fail hours later."""
    with pytest.raises(TypeError) as caught:
        resolve(with_attributes(**attributes))
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("share", [-0.1, float("nan"), np.float32("inf")])
def test_a_share_of_no_training_is_refused(share: Any) -> None:
    """The field and what is allowed are named."""
    with pytest.raises(ValueError, match=r"Made.train_share is .*: must be at least 0"):
        resolve(with_attributes(train_share=share))


def test_hooks_may_take_anything() -> None:
    """*arguments and defaults are fine."""
    found = resolve(
        with_attributes(
            loss=lambda self, *anything: 1, calibrate=lambda self, model, batches, more=3: 2
        )
    )
    assert found.hooks.loss("model", "batch", "criterion", 0.5) == 1
    assert found.hooks.calibrate("model", []) == 2


def test_flags_may_be_numpys() -> None:
    """They become those of Python."""
    found = resolve(with_attributes(batch_invariant=np.bool_(False), train_share=np.float64(0.5)))
    assert found.flags.batch_invariant is False
    assert type(found.flags.train_share) is float


@pytest.mark.parametrize("flops", [float("nan"), -1.0, np.float32("inf")])
def test_declared_flops_that_are_no_cost_are_refused(flops: Any) -> None:
    """FLOPs are a finite number of at least 0."""
    method = with_attributes(declared_flops=lambda self, model, seen: flops)
    with pytest.raises(ValueError, match=r"Made.declared_flops\(\) is .*: must be at least 0"):
        resolve(method).hooks.declared_flops(None, None)


def test_misspelt_hooks_are_suspects() -> None:
    """Public names that are nearly a hook's or a flag's, settings and private names aside."""
    method = with_attributes(
        calibrte=lambda self, model, batches: None, batch_invarient=False, _lost=1, helper=2
    )
    assert resolve(method).suspects == (
        "batch_invarient: did you mean 'batch_invariant'?",
        "calibrte: did you mean 'calibrate'?",
    )


def test_a_wrap_with_other_arguments_is_refused() -> None:
    """A control's way around the inner method's model is checked like a hook."""
    method = with_attributes(inner=Plain(), wrap=lambda self, model: model)
    with pytest.raises(TypeError, match=r"Made.wrap\(model\) is called as wrap\(model, spec\)"):
        resolve(method)


def test_a_control_without_wrap_is_the_inner_method() -> None:
    """None counts as left out, here as for every hook."""
    control = dataclass(type("Made", (), {"inner": Plain(), "wrap": None}))()
    assert resolve(control).hooks.build("a task", "a trunk") == "a trunk for a task"


@pytest.mark.parametrize("name", ["build", "convert"])
def test_what_a_wrap_would_hide_is_refused(name: str) -> None:
    """The control's own build would never be called."""

    def wrap(self: Any, model: Any, spec: Any) -> Any:
        return model

    method = with_attributes(
        **{"inner": Plain(), "wrap": wrap, "build": None, name: lambda self, a, b: None}
    )
    with pytest.raises(TypeError, match=rf"Made has wrap\(\) in place of build, and {name}\(\)"):
        resolve(method)


@pytest.mark.parametrize("name", ["loss", "batch_invariant", "inner"])
def test_a_property_that_fails_is_not_a_hook_left_out(name: str) -> None:
    """A misspelt name inside raises AttributeError, which getattr takes for "no such hook"."""
    broken = property(lambda self: self.no_such_setting)
    with pytest.raises(TypeError, match=rf"Made.{name} cannot be read: .*no_such_setting"):
        resolve(with_attributes(**{name: broken}))


@pytest.mark.parametrize("huge", [10**400, -(10**400)])
def test_numbers_that_no_float_holds_are_refused(huge: int) -> None:
    """Figures and tables are made of floats."""
    with pytest.raises(ValueError, match=r"Pointed.points\(\)\[0\]\['k'\] is .*: must be finite"):
        resolve(Pointed([{"k": huge}])).hooks.points()
