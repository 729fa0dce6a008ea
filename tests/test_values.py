"""What a task gives is judged when it is given: the field is named, foreign scalars are coerced."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
import torch

from bench.types import Quality, Range, Recipe, Unsupported

GOOD: dict[str, Any] = {"value": 1.0, "unit": "accuracy %", "direction": "higher"}


def test_numbers_of_numpy_and_torch_become_floats() -> None:
    """Every score, also inside mappings and arrays, can be written as JSON."""
    quality = Quality(
        value=np.float32(0.5),
        unit="bit",
        direction="lower",
        per_sample=np.array([1, 2], dtype=np.float16),
        chance=torch.tensor(3.0),
        references={"base": np.float64(2.0)},
        more={"BLEU": np.int64(7)},
        more_units={"BLEU": "BLEU"},
    )
    assert json.loads(json.dumps(asdict(quality))) == {
        "value": 0.5,
        "unit": "bit",
        "direction": "lower",
        "per_sample": [1.0, 2.0],
        "chance": 3.0,
        "references": {"base": 2.0},
        "more": {"BLEU": 7.0},
        "more_units": {"BLEU": "BLEU"},
        "reason": "",
    }
    assert Quality(**GOOD, per_sample=torch.tensor([1.0, 0.0])).per_sample == [1.0, 0.0]


def test_a_model_may_score_nan() -> None:
    """What a model does is an outcome, and a missing number in the record; no field is lost."""
    nan = float("nan")
    quality = Quality(**{**GOOD, "value": nan}, per_sample=[nan, 1.0], more={"BLEU": nan})
    assert np.isnan([quality.value, quality.per_sample[0], quality.more["BLEU"]]).all()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"references": {"base": float("nan")}}, "Quality.references['base'] is nan: must be fin"),
        ({"references": {"base": np.inf}}, "Quality.references['base'] is inf: must be finite"),
        ({"chance": np.float32("nan")}, "Quality.chance is nan: must be finite"),
        ({"direction": "up"}, "Quality.direction is 'up': choose 'higher' or 'lower'"),
        ({"more_units": {"BLEU": "%"}}, "Quality.more_units names ['BLEU'], but Quality.more does"),
        ({"value": 3.0, "reason": "none"}, "Quality.reason stands for a missing value, which is 3"),
    ],
)
def test_constants_that_no_record_holds_are_refused(fields: dict[str, Any], message: str) -> None:
    """A reference is the task's own: not finite, it is a mistake of the task."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        Quality(**{**GOOD, **fields})
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"value": "12"}, "Quality.value is '12', which is not a number"),
        ({"value": True}, "Quality.value is True, which is not a number"),
        ({"value": np.ones(2)}, "Quality.value is array([1., 1.]), which is not a number"),
        ({"value": None}, "Quality.value is None, which is not a number"),
        ({"unit": 3}, "Quality.unit is 3, which is not text"),
        ({"per_sample": [[1.0]]}, "Quality.per_sample[0] is [1.0], which is not a number"),
        ({"per_sample": [1.0, "x"]}, "Quality.per_sample[1] is 'x', which is not a number"),
        ({"references": {3: 1.0}}, "a key of Quality.references is 3, which is not text"),
        ({"references": [1.0]}, "Quality.references is [1.0], which is not a mapping"),
        ({"more_units": "%"}, "Quality.more_units is '%', which is not a mapping"),
        ({"per_sample": 1.0}, "Quality.per_sample is 1.0, which is not a sequence"),
        ({"more": {"BLEU": None}}, "Quality.more['BLEU'] is None, which is not a number"),
        (
            {"more": {"BLEU": 1.0}, "more_units": {"BLEU": 1}},
            "Quality.more_units['BLEU'] is 1, which is not text",
        ),
    ],
)
def test_scores_of_another_type_are_refused(fields: dict[str, Any], message: str) -> None:
    """The field, and the place inside it, are named."""
    with pytest.raises(TypeError) as caught:
        Quality(**{**GOOD, **fields})
    assert str(caught.value).startswith(message)


def test_text_that_no_file_can_hold_is_escaped() -> None:
    """Lone surrogates, in names and reasons alike."""
    quality = Quality(1.0, "a\udce4", "higher", references={"b\ud800": 1.0})
    assert (quality.unit, list(quality.references)) == ("a\\udce4", ["b\\ud800"])
    assert str(Unsupported("needs \udcff")) == "needs \\udcff"
    assert str(Unsupported("needs tokens")) == "needs tokens"


def test_a_recipe_is_coerced() -> None:
    """Whole numbers of numpy and 3e2 are numbers of steps."""
    recipe = Recipe(steps=3e2, batch_size=np.int64(4), lr=np.float32(0.5))
    assert recipe == Recipe(300, 4, 0.5)
    assert [type(value) for value in asdict(recipe).values()] == [int, int, float, float, float]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"steps": -1}, "Recipe.steps is -1: must be at least 0"),
        ({"steps": 1.5}, "Recipe.steps is 1.5, which is not a whole number"),
        ({"batch_size": 0}, "Recipe.batch_size is 0: must be at least 1"),
        ({"lr": 0.0}, "Recipe.lr is 0.0: must be above 0"),
        ({"lr": float("nan")}, "Recipe.lr is nan: must be above 0, and finite"),
        ({"weight_decay": -1.0}, "Recipe.weight_decay is -1.0: must be at least 0"),
        ({"warmup_share": 1.5}, "Recipe.warmup_share is 1.5: must be at least 0 and at most 1"),
    ],
)
def test_a_recipe_out_of_range_is_refused(fields: dict[str, Any], message: str) -> None:
    """The field and its range are named."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        Recipe(**{"steps": 1, "batch_size": 1, "lr": 1.0, **fields})
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("limit", "value", "problem"),
    [
        (Range(1), 1, ""),
        (Range(1), 0, "must be at least 1"),
        (Range(gt=0), 0, "must be above 0"),
        (Range(gt=0, le=1), 1, ""),
        (Range(gt=0, le=1), 2, "must be above 0 and at most 1"),
        (Range(0, lt=1), 1, "must be at least 0 and below 1"),
        (Range(), float("nan"), "must be finite"),
        (Range(1), float("inf"), "must be at least 1, and finite"),
        (Range(1), "auto", ""),
    ],
)
def test_a_range_says_what_is_allowed(limit: Range, value: Any, problem: str) -> None:
    """In the words of a sentence; what is no number is not its business."""
    assert limit.problem(value) == problem
