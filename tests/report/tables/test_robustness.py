"""Robustness in the report: means over corruptions, shares of dense, and one finding per method."""

from __future__ import annotations

import pytest

from bench.records.catalogue import QUALITY_UNDER
from bench.records.record import Metric, missing
from bench.report.figures.figures import robustness_figure
from bench.report.render.text import markdown
from bench.report.tables.robust_cells import cell_at, flops_share
from bench.report.tables.robustness import robustness

STEADY = (80.0, 79.0, 78.0, 77.0, 76.0, 75.0)  # loses 1 per severity, as dense does: 3 on average
FLOPS = tuple(1e6 * flops for flops in (50, 52, 54, 56, 58, 60))


@pytest.fixture
def section(make, tabulated, harder):
    """`section(quality, flops, seeds)`: the section of a table with one method beside dense."""

    def build(quality=STEADY, flops=FLOPS, seeds=(0,), **fields):
        records = [
            make("early_exit", changed=harder(quality, flops), labels={"seed": seed}, **fields)
            for seed in seeds
        ]
        (table,) = tabulated(*records)
        return robustness(table)

    return build


def test_a_severity_is_the_mean_over_the_corruptions(section):
    """77 * 1.02 and 77 * 0.98 under two corruptions are 77; FLOPs 56 of dense's 100 M are 56 %."""
    found = section()
    assert found.conditions == ["clean", "1", "2", "3", "4", "5", "garbage"]
    quality, flops, confidence = ([text.main for text in b.lines[0][1]] for b in found.blocks)
    assert quality == ["80.0", "79.0", "78.0", "77.0", "76.0", "75.0", "-"]
    assert flops == ["50.0", "52.0", "54.0", "56.0", "58.0", "60.0", "70.0"]
    assert confidence[0] == "90.0"
    assert confidence[-1] == "30.0"
    assert any("no correct answer" in note for note in found.notes)


def test_the_legend_has_the_number_of_samples(section, make, tabulated, harder):
    """The record's own number; an older record has none."""
    count = {"infer/num_robustness_samples": Metric(value=200, unit="count")}
    (table,) = tabulated(make("early_exit", changed=harder(STEADY, FLOPS) | count))
    assert "clean: 200 test samples, drawn once; 1 to 5" in robustness(table).notes[-1]
    assert "clean: test samples; 1 to 5" in section().notes[-1]
    count["infer/num_unseen_samples"] = Metric(value=40, unit="count")
    (table,) = tabulated(make("early_exit", changed=harder(STEADY, FLOPS) | count))
    assert robustness(table).notes[-1].endswith("Unseen: 40 samples.")


def test_a_corruption_without_a_number_hides_its_severity(make, tabulated, harder):
    """A mean over the others would look better or worse than it is; the reason is a note."""
    changed = harder(STEADY, FLOPS)
    changed["infer/quality_blur_s3"] = missing("accuracy %", "the evaluation gave nan")
    (table,) = tabulated(make("early_exit", changed=changed))
    assert cell_at(table.rows[0], QUALITY_UNDER, "3").value is None
    found = robustness(table)
    assert found.blocks[0].lines[0][1][3].main == "-"
    assert any("the evaluation gave nan" in note for note in found.notes)
    assert "was not measured" in found.findings[0]


@pytest.mark.parametrize(
    ("flops", "word"), [(FLOPS, "more"), (FLOPS[::-1], "fewer"), ((50e6,) * 6, "equal")]
)
def test_flops_on_harder_inputs_are_compared(section, flops, word: str):
    """From clean to severity 5: 50 to 60 MFLOP, back, or not at all."""
    assert f"executes {word} FLOPs on harder inputs" in section(flops=flops).findings[0]


def test_the_change_of_flops_is_given(section):
    """60 of 50 is +20 %, garbage 70 of 50 is +40 %."""
    assert "+20.0% at severity 5, +40.0% on garbage" in section().findings[0]


def test_a_single_seed_supports_no_claim(section):
    """The losses 3 and 3 stand without a verdict."""
    (finding,) = section().findings
    assert "loses 3.00, dense 3.00 (accuracy %): a single seed supports no claim" in finding
    assert "quality than dense" not in finding


@pytest.mark.parametrize(
    ("step", "verdict"),
    [(0.5, "loses less quality than dense"), (2.0, "loses more quality than dense")],
)
def test_seeds_decide_which_model_loses_less(make, tabulated, harder, step: float, verdict: str):
    """Half of dense's loss, or twice, a hundredth more in the second seed."""
    records = [
        make("early_exit", changed=harder(losing(step + 0.01 * s), FLOPS), labels={"seed": s})
        for s in (0, 1)
    ]
    (table,) = tabulated(*records)
    assert verdict in robustness(table).findings[0]


def losing(step: float) -> list[float]:
    """A quality that begins at 80 and loses `step` per severity."""
    return [80.0 - step * level for level in range(6)]


def test_seeds_without_a_spread_support_no_claim(section):
    """Two seeds that lose exactly half of dense's loss may agree by chance."""
    (finding,) = section(losing(0.5), seeds=(0, 1)).findings
    assert "show no spread and support no claim" in finding
    assert "quality than dense" not in finding


def test_seeds_that_disagree_show_no_clear_difference(make, tabulated, harder):
    """One seed loses more than dense and one less."""
    steps = (0.5, 2.0)
    records = [
        make(
            "early_exit",
            changed=harder([80.0 - step * level for level in range(6)], FLOPS),
            labels={"seed": seed},
        )
        for seed, step in enumerate(steps)
    ]
    (table,) = tabulated(*records)
    assert "no clear difference from dense in lost quality" in robustness(table).findings[0]


def test_dense_executes_all_of_dense(make, tabulated, harder):
    """Its own record has no second dense model beside it: its share is 1."""
    own = {k: m for k, m in harder(STEADY, (100e6,) * 6).items() if "dense" not in k}
    (table,) = tabulated(make(changed=own))
    assert flops_share(table.rows[0], "4").value == pytest.approx(1.0)
    assert robustness(table).findings == []


def test_without_the_dense_count_there_is_no_share(make, tabulated, harder):
    """A dash and a reason instead of a share of something else."""
    own = {k: m for k, m in harder(STEADY, FLOPS).items() if "dense_flops" not in k}
    (table,) = tabulated(make("moe", changed=own))
    cell = flops_share(table.rows[0], "1")
    assert (cell.value, cell.reasons) == (None, ("the FLOPs of dense were not counted",))


def test_without_a_measurement_there_is_no_section(make, tabulated):
    """No heading and no figure either."""
    made = tabulated(make(), make("moe"))
    assert robustness(made[0]) is None
    assert "Robustness" not in markdown(made)
    assert robustness_figure(made) is None


def test_a_task_without_robustness_has_the_reason(make, tabulated):
    """The record of a language model holds the reason alone; it is the section."""
    why = "robustness is for tasks of classification"
    made = tabulated(make("moe", changed={"infer/quality_clean": missing("1", why)}))
    found = robustness(made[0])
    assert (found.blocks, found.notes) == ([], [why])
    assert why in markdown(made)
    assert robustness_figure(made) is None


def test_markdown_has_the_section(make, tabulated, harder):
    """A line per quantity and method, and the findings."""
    text = markdown(tabulated(make("early_exit", changed=harder(STEADY, FLOPS))))
    lines = [line for line in text.splitlines() if line.startswith("| executed FLOPs, % of dense")]
    assert len(lines) == 1
    assert "50.0 |" in lines[0]
    assert "### Robustness" in text
    assert "- early\\_exit" not in text
    assert "- early_exit: executes more FLOPs on harder inputs" in text


def test_a_lower_quality_that_rises_is_a_loss(make, tabulated, harder):
    """With errors instead of scores a method that goes from 20 to 25 has lost."""
    lower = {"direction": "lower", "chance": 90.0}
    records = []
    for seed, step in enumerate((0.99, 1.01)):
        changed = harder([20.0 + step * level for level in range(6)], FLOPS)
        for key in [key for key in changed if "dense_quality" in key]:
            changed[key] = Metric(value=10.0, unit="error %")  # dense does not change
        records.append(make("moe", changed=changed, labels={"seed": seed}, quality_label=lower))
    (table,) = tabulated(*records)
    assert "loses 3.00, dense 0" in robustness(table).findings[0]
    assert "loses more quality than dense" in robustness(table).findings[0]
