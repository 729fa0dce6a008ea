"""Cards on routing and deployment, warnings outside of them, and untrusted diagnostics."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.report.render.cards import Card, cards
from bench.report.render.page import page
from bench.report.render.text import markdown, terminal
from bench.report.tables.warnings import warning_lines, warnings


@pytest.fixture
def card_of(make, tabulated):
    """`card_of(diagnostics)`: the card of a trial with these diagnostics."""

    def run(diagnostics) -> Card:
        (table,) = tabulated(make("moe", diagnostics=diagnostics))
        (card,) = cards(table)
        return card

    return run


def test_a_card_has_the_figures_of_its_trial(card_of, routing):
    """Means over the gates that have a figure: entropy 0.625 of two, margin 0.125 of one."""
    card = card_of(routing())
    assert card.name == "moe (seed 0)"
    assert dict(card.facts) == {
        "gates": "2",
        "largest imbalance": "2.25x an equal load (moe.1)",
        "router entropy, mean over gates": "0.625 of the largest possible",
        "router margin, mean over gates": "0.125 of probability",
        "collapsed gates, dead branches": "none",
        "distinct paths": "3",
        "path entropy": "0.875 nat",
        "router's share of FLOPs": "1.2%",
        "router's share of time, batch 1": "25.0%",
    }


def test_a_null_figure_has_its_reason(card_of, routing):
    """Never 0: the correlation is missing because every input costs the same."""
    missing = card_of(routing()).missing
    assert missing["every input costs the same"] == ["rank correlation of FLOPs and difficulty"]
    assert "by task" in missing["not in the record"]


def test_pictures_have_their_numbers_as_words(card_of, routing):
    """Shares by gate, load of the experts and exits, for screen readers."""
    share, load, exits = card_of(routing()).pictures
    assert "<title>exit0: 25.0%, moe.1: 50.0%</title>" in share.svg
    assert "<title>moe.1: 75% 25% 0%</title>" in load.svg
    assert 'class="dead"' in load.svg
    assert "<title>exits: 0: 75.0%, 1: 25.0%</title>" in exits.svg


def test_which_experts_serve_which_task(card_of, routing):
    """A mixture of tasks has the pictures of each task, with what a sample of it costs."""
    gates = [{"name": "moe.1", "executed_share": 0.5, "load": [1.0, 0.0, 0.0]}]
    tasks = [{"task": "digits", "flops_per_sample": 4.5e6, "gates": gates}]
    captions = [picture.caption for picture in card_of(routing(by_task=tasks)).pictures]
    assert sum("for task digits, 4.50 M FLOPs per sample" in caption for caption in captions) == 2


def test_deployment_is_on_the_card(card_of):
    """Graph breaks with their reasons, the exported batch, and synchronisations."""
    card = card_of(
        {
            "deployability": {
                "compile": {"num_graphs": 3, "num_graph_breaks": 2, "break_reasons": ["item()"]},
                "export": None,
                "export_reason": "Unsupported: data-dependent",
                "host_syncs_per_forward": 4,
            }
        }
    )
    facts = dict(card.facts)
    assert facts["torch.compile"] == "3 graphs, 2 graph breaks: item()"
    assert facts["host synchronisations per pass"] == "4"
    assert card.missing["Unsupported: data-dependent"] == ["torch.export"]


def test_a_warning_is_a_line_below_the_table(make, tabulated, routing):
    """In Markdown and on the terminal; seeds with the same warning share a line."""
    on = routing(collapsed=["exit0"], dead_branches=[f"moe.1.{k}" for k in range(8)])
    made = tabulated(*(make("moe", diagnostics=on, labels={"seed": s}) for s in (0, 2)), make())
    assert warning_lines(made[0]) == [
        "WARNING: moe (seeds 0, 2): 1 collapsed gate: exit0",
        "WARNING: moe (seeds 0, 2): 8 dead branches: "
        "moe.1.0, moe.1.1, moe.1.2, moe.1.3, moe.1.4, moe.1.5 and 2 more",
    ]
    for text in (markdown(made), terminal(made)):
        assert "WARNING: moe (seeds 0, 2): 1 collapsed gate: exit0" in text


def test_without_a_warning_there_is_no_line(make, tabulated, routing):
    """Neither below the table nor in it."""
    made = tabulated(make("moe", diagnostics=routing()), make())
    assert "WARNING" not in markdown(made)
    assert 'class="tag warning"' not in page("t", made, {}, [])


def test_a_warning_is_visible_while_the_cards_are_folded(make, tabulated, routing):
    """It is in the row, in a line below the table and in the summary of the folded section."""
    made = tabulated(make("moe", diagnostics=routing(collapsed=["exit0"])), make())
    visible = page("t", made, {}, []).partition('<details class="diagnostics">')[0]
    assert 'moe <span class="tag warning">1 collapsed gate</span>' in visible
    assert '<li class="warning">WARNING: moe (seed 0)' in visible
    summary = page("t", made, {}, []).partition("<summary>")[2].partition("</summary>")[0]
    assert "with warnings: 1" in summary


def test_the_section_is_folded(make, tabulated, routing):
    """The tables stay close together."""
    html = page("t", tabulated(make("moe", diagnostics=routing())), {}, [])
    assert '<details class="diagnostics">' in html
    assert html.count("<article>") == 1


def test_trials_without_diagnostics_have_no_card(make, tabulated):
    """Older, failed and skipped trials do not make empty cards."""
    made = tabulated(make(), make("x", status="failed", reason="oom"))
    assert cards(made[0]) == []
    assert '<details class="diagnostics">' not in page("t", made, {}, [])


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
FIELDS = (
    *("gates", "by_task", "collapsed", "dead_branches", "exit_histogram", "reasons", "num_paths"),
    *("load", "name", "executed_share", "imbalance", "router_time_share_b1", "depth_histogram"),
)
entries = st.dictionaries(st.sampled_from(FIELDS), anything | st.lists(st.dictionaries(
    st.sampled_from(FIELDS), anything, max_size=4), max_size=3))  # fmt: skip


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(anything | entries, anything)
def test_no_diagnostics_stop_the_page(make, tabulated, routed, deployed):
    """A value of an unexpected type counts as missing."""
    record = make("moe")
    record.diagnostics.update(routing=routed, deployability=deployed)
    assert page("t", tabulated(record), {}, [])
    assert isinstance(warnings(record), dict)
