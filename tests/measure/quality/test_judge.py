"""A task's scores in the record: the quality, and every further score by its name."""

from __future__ import annotations

import math

import pytest

from bench.measure.quality.judge import quality_label, quality_metrics, quality_notes
from bench.records.record import Metric
from bench.types import Quality


def test_further_scores_are_metrics_of_their_own() -> None:
    """BLEU has a unit of its own, the score of one task the unit of all."""
    more = {"BLEU": 31.5, "digits": 90.0}
    quality = Quality(80.0, "accuracy %", "higher", more=more, more_units={"BLEU": "BLEU"})
    assert quality_metrics(quality) == {
        "infer/quality": Metric(value=80.0, unit="accuracy %"),
        "infer/quality_bleu": Metric(value=31.5, unit="BLEU"),
        "infer/quality_digits": Metric(value=90.0, unit="accuracy %"),
    }
    assert quality_label(quality).more == ["BLEU", "digits"]


def test_a_score_that_is_no_number_says_so() -> None:
    """Missing with what the evaluation gave, as for the quality itself."""
    found = quality_metrics(Quality(1.0, "1", "lower", more={"two words": math.nan}))
    assert "gave nan" in str(found["infer/quality_two_words"].reason)


@pytest.mark.parametrize(
    ("value", "chance", "direction", "noted"),
    [
        (10.9, 10.0, "higher", True),  # better than guessing means above 10 + a tenth of it = 11
        (11.1, 10.0, "higher", False),
        (2.9, 3.0, "lower", True),  # and below 3 - 0.3 = 2.7 where lower is better
        (2.6, 3.0, "lower", False),
        (0.0, None, "higher", False),
    ],
)
def test_a_model_that_guesses_is_named(value, chance, direction, noted) -> None:
    """No better than chance, by more than a tenth of it: a note names it."""
    notes = quality_notes(Quality(value, "accuracy %", direction, chance=chance))
    expected = f"quality {value} accuracy % is at chance level ({chance:g})" if noted else ""
    assert notes == [expected] * noted
