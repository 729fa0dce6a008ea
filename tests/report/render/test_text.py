"""Markdown and terminal text: complete tables, in which untrusted text is inert."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.records.record import DEPENDS_ON_BATCH, Metric
from bench.report.render.text import TERMINAL_WIDTH, markdown, terminal


def test_every_table_has_its_conditions(make, tabulated):
    """Profile, hardware, threads, number format, seeds, conventions and software stand with it."""
    made = tabulated(*(make(labels={"seed": seed}) for seed in (0, 3)))
    for text in (markdown(made), terminal(made)):
        assert "measure=quick (10 rounds, 64 inputs)" in text
        assert "cpu-2x-test (Test CPU 3000); 2 threads; fp32" in text
        assert "seeds 0, 3" in text
        assert "2 x MAC, executed, padding included (in convolutions also the zero padding)" in text
        assert "torch 2.13.0" in text
        assert "commit 0123456789" in text


def test_conditions_that_differ_are_all_named(make, tabulated):
    """Trials of one table that ran with one and with two threads: both are named."""
    one = make("moe")
    one.environment["num_threads"] = 1
    assert "2 / 1 threads" in markdown(tabulated(make(), one))
    alone = markdown(tabulated(one))
    assert "1 thread;" in alone
    assert "Made from 1 trial," in alone


def test_references_and_chance_stand_below(make, tabulated):
    """What guessing and a known baseline reach is listed beneath the table."""
    assert "baselines (accuracy): chance 0.1000, nearest 0.7100" in terminal(tabulated(make()))


def test_a_model_at_chance_level_is_named_below(make, tabulated):
    """The note names the trial."""
    note = "quality 0.1 accuracy is at chance level (0.1)"
    table = tabulated(make(), make("moe", quality=0.1, notes=[note]))
    for text in (markdown(table), terminal(table)):
        assert f"moe (seed 0): {note}" in text


def test_the_noise_floor_stands_below(make, tabulated):
    """The A/A control of each batch size is quoted as a share, the worst one of the table."""
    floors = [
        {f"infer/noise_floor_b{b}": Metric(value=v, unit="1") for b, v in ((1, first), (64, 0.01))}
        for first in (0.004, 0.0213)
    ]
    text = terminal(tabulated(make(changed=floors[0]), make("moe", changed=floors[1])))
    assert "timing noise: identical models differed by 2.1 % at batch 1, 1.0 % at batch 64" in text


def noisy(floor: float) -> dict[str, Metric]:
    """The A/A control of a session whose floor is above its limit."""
    return {"infer/noise_floor_b64": Metric(value=floor, unit="1", reason="a noisy session")}


def test_a_noisy_session_is_marked(make, tabulated):
    """A floor above the limit stands below the table with its size, and is not hidden."""
    made = tabulated(make(changed=noisy(0.26)))
    for text in (markdown(made), terminal(made)):
        assert (
            "timing noise: identical models differed by 26 % at batch 64 (above the limit)" in text
        )


def test_a_speedup_within_the_noise_has_no_verdict(make, tabulated):
    """1.15 with an interval clear of 1 is no gain where a model differs from itself by 26 %."""
    made = tabulated(
        make(changed=noisy(0.26)), make("slight", speedup=1.15), make("fast", speedup=1.8)
    )
    lines = markdown(made).splitlines()
    slight = next(line for line in lines if line.startswith("| slight"))
    fast = next(line for line in lines if line.startswith("| fast"))
    assert "**" not in slight
    letter = slight.partition("1.15 [1.11, 1.19] (")[2][:1]
    note = f"({letter}) within timing noise: identical models differed by up to 26.0%"
    assert any(note in line for line in lines)
    assert "**1.80** [1.76, 1.84] |" in fast


def test_a_tie_within_the_noise_stays_a_tie(make, tabulated):
    """It has no verdict to lose."""
    text = markdown(tabulated(make(changed=noisy(0.26)), make("slight", speedup=1.02)))
    assert "1.02 [0.980, 1.06] no clear difference |" in text


def test_a_gain_is_bold_and_a_tie_is_no_clear_difference(make, tabulated):
    """Only an interval clear of 1 is printed as a gain."""
    lines = markdown(tabulated(make("fast", speedup=1.8), make("slight", speedup=1.02)))
    fast = next(line for line in lines.splitlines() if line.startswith("| fast"))
    slight = next(line for line in lines.splitlines() if line.startswith("| slight"))
    assert "**1.80** [1.76, 1.84]" in fast
    assert "1.02 [0.980, 1.06] no clear difference" in slight
    assert "**" not in slight


def test_a_tie_has_its_word_on_the_terminal(make, tabulated):
    """So does the short form, where the interval is a +-."""
    assert "1.02\u00b10.04 tie" in terminal(tabulated(make("slight", speedup=1.02)))


def test_missing_failed_and_skipped_have_their_reasons_below(make, tabulated):
    """A dash refers to a lettered reason; trials without a row are listed.

    On a terminal a line stands for a column of dashes.
    """
    made = tabulated(make(), make("soft_moe", status="skipped", reason="needs tokens"))
    reason = "no NVIDIA GPU: the driver does not answer"
    assert "- (a)" in markdown(made)
    assert f"(a) {reason}" in markdown(made)
    assert f"energy per sample: {reason}" in terminal(made)
    for text in (markdown(made), terminal(made)):
        assert "skipped: soft_moe (seed 0): needs tokens" in text


def test_a_table_of_failures_only_still_stands(make, tabulated):
    """Without any row the title and the reasons remain."""
    made = tabulated(make("moe", status="failed", reason="killed by SIGKILL"))
    for text in (markdown(made), terminal(made)):
        assert "digits, transformer" in text
        assert "failed: moe (seed 0): killed by SIGKILL" in text


def test_the_terminal_table_fits(make, tabulated):
    """With one seed and names of ordinary length no line of the grid is wider than 120."""
    names = ("dense", "mixture_of_depths", "early_exit", "moe")
    points = [{"settings": {"capacity": c}, "metrics": {}} for c in (0.5, 0.125)]
    made = tabulated(*(make(name, points=points) for name in names))
    lines = terminal(made).splitlines()
    grid = [line for line in lines if line.startswith((*names, "  @", "method", "--"))]
    assert len(grid) == 2 + 3 * len(names)  # a method has its name and two operating points
    assert max(map(len, grid)) <= TERMINAL_WIDTH


def test_operating_points_are_indented_on_the_terminal(make, tabulated):
    """Below its method an operating point shows its settings only, the default one first."""
    points = [{"settings": {"k": k}, "metrics": {}} for k in (1, 2)]
    text = terminal(tabulated(make("moe", points=points)))
    assert [line.split("  ")[0] for line in text.splitlines() if line.startswith("moe")] == ["moe"]
    assert text.index("\nmoe") < text.index("\n  @ k 1  ") < text.index("\n  @ k 2  ")


def test_remarks_stand_on_the_terminal_where_they_fit(make, tabulated):
    """A short one beside the name; a long one is in the notes, and the name is not cut for it."""
    masked = {
        "infer/declared_saving": Metric(value=0.5, unit="1"),
        "infer/executed_saving": Metric(value=0.0, unit="1"),
    }
    text = terminal(tabulated(make("moe", changed=masked, notes=[DEPENDS_ON_BATCH])))
    assert "\nmoe (masked)  " in text
    assert f"moe (seed 0): {DEPENDS_ON_BATCH}" in text


@pytest.mark.parametrize(
    ("untrusted", "shown"),
    [
        ("a|b", r"a\|b"),
        ("<img src=x>", "&lt;img src=x>"),
        ("[x](javascript:1)", "\\[x\\](javascript:\u200b1)"),
        ("two\nlines", "two lines"),
        ("*bold* `code`", r"\*bold\* \`code\`"),
    ],
)
def test_untrusted_text_is_no_markup(make, tabulated, untrusted: str, shown: str):
    """A reason out of a record cannot break the table, link, or become HTML."""
    text = markdown(tabulated(make("moe", status="failed", reason=untrusted)))
    assert f"failed: moe (seed 0): {shown}" in text


def test_untrusted_text_steers_no_terminal(make, tabulated):
    """Escape sequences and carriage returns become blanks."""
    text = terminal(tabulated(make("moe", status="failed", reason="\x1b[31mred\r\x07")))
    assert "failed: moe (seed 0):  [31mred  " in text
    assert "\x1b" not in text


numbers = st.floats(0, 1e308)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(numbers, numbers, numbers), min_size=1, max_size=3), st.text(max_size=20))
def test_any_numbers_and_names_make_a_table(make, tabulated, seeds, name: str):
    """No magnitude and no name stops a table."""
    records = []
    for seed, (value, *bounds) in enumerate(seeds):
        metric = Metric(value=value, unit="1", low=min(bounds), high=max(bounds))
        record = make(name, labels={"seed": seed}, started=float(seed))
        wild = dict.fromkeys(record.metrics, metric) | {name: metric}
        records.append(record.model_copy(update={"metrics": wild}))
    made = tabulated(*records)
    assert markdown(made)
    assert terminal(made)
