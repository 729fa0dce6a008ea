"""report.html: self-contained, escaped, and complete."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser

import pytest

from bench.records.record import Metric
from bench.report.render.page import page

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>"
PIXEL = b"\x89PNG not really"


class Collector(HTMLParser):
    """Every tag with its attributes, and all text."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def parsed(html: str) -> Collector:
    """The page's tags and text."""
    collector = Collector()
    collector.feed(html)
    return collector


def test_untrusted_text_is_escaped(make, tabulated):
    """Names, reasons, settings, notes and problems out of a record bring no tag of their own."""
    points = [
        {"settings": {HOSTILE: 1}, "metrics": {}},
        {"settings": {"k": HOSTILE}, "metrics": {}},
    ]
    quality = {"infer/quality": Metric(value=0.5, unit=HOSTILE)}
    made = tabulated(
        make(HOSTILE, points=points, changed=quality, notes=[HOSTILE]),
        make("moe", status="failed", reason=HOSTILE, labels={"variant": HOSTILE}),
    )
    seen = parsed(page(HOSTILE, made, {"speedup.png": PIXEL}, [HOSTILE]))
    assert "script" not in {tag for tag, _ in seen.tags}
    assert [attrs["src"][:22] for tag, attrs in seen.tags if tag == "img"] == [
        "data:image/png;base64,"
    ]
    assert not any(name.startswith("on") for _, attrs in seen.tags for name in attrs)
    assert seen.text.count("<script>alert(1)</script>") >= 8


def test_untrusted_diagnostics_are_escaped(make, tabulated, routing, harder):
    """Names of gates, tasks, warnings and reasons, in cards and in the titles of pictures."""
    gate = {"name": HOSTILE, "executed_share": 0.5, "load": [1.0, 0.0], "imbalance": 2.0}
    routed = routing(
        gates=[gate],
        by_task=[{"task": HOSTILE, "gates": [gate]}],
        collapsed=[HOSTILE],
        reasons={"compute_difficulty_correlation": HOSTILE},
        **{f"router_time_share_b{HOSTILE}": 0.5},
    )
    deployed = {"compile_reason": HOSTILE, "export_reason": HOSTILE}
    changed = harder([80.0] * 6, [5e7] * 6)
    hard = changed | {"infer/quality_clean": Metric(value=80.0, unit=HOSTILE)}
    record = make(HOSTILE, changed=hard, diagnostics=routed | {"deployability": deployed})
    seen = parsed(page("t", tabulated(record), {}, []))
    assert not {"script", "img"} & {tag for tag, _ in seen.tags}
    assert not any(name.startswith("on") for _, attrs in seen.tags for name in attrs)
    assert seen.text.count("<script>alert(1)</script>") >= 12


def test_harder_inputs_have_a_section(make, tabulated, harder):
    """Three blocks of rows in a table of its own, and the findings above it."""
    made = tabulated(make("early_exit", changed=harder([80.0] * 6, [5e7] * 6)), make())
    seen = parsed(page("t", made, {}, []))
    assert "Robustness" in seen.text
    assert "executes equal FLOPs on harder inputs" in seen.text
    assert [tag for tag, _ in seen.tags].count("tbody") == 1 + 3
    plain = parsed(page("t", tabulated(make()), {}, []))
    assert "Robustness" not in plain.text


def test_the_page_needs_nothing_from_outside(make, tabulated):
    """No address, no script, figures inlined; a policy forbids everything else."""
    html = page("t", tabulated(make(), make("moe")), {"speedup.png": PIXEL}, [])
    assert "default-src 'none'" in html
    assert base64.b64encode(PIXEL).decode() in html
    assert not re.search(r"https?://|//[a-z]|@import|url\(", html)
    outside = [attrs.get("href") for tag, attrs in parsed(html).tags if tag in ("link", "a")]
    assert outside == ["data:,"]


def test_the_page_holds_tables_notes_and_provenance(make, tabulated):
    """Every row, footnote, skipped trial, key and problem is on it."""
    record = make("moe", speedup=1.02)
    made = tabulated(make(), record, make("x", status="skipped", reason="needs tokens"))
    seen = parsed(page("condbench: demo", made, {}, ["left out: half a record"]))
    expected = ("condbench: demo", "Trials: 3", "moe", "left out: half a record")
    facts = ("no NVIDIA GPU", "skipped: x (seed 0): needs tokens", record.key[:12], "2 x MAC")
    for text in (*expected, *facts, "no clear difference"):
        assert text in seen.text
    assert [tag for tag, _ in seen.tags].count("tbody") == 1


@pytest.mark.parametrize(("speedup", "name"), [(1.8, "better"), (0.5, "worse"), (1.0, "tie")])
def test_verdicts_are_classes(make, tabulated, speedup: float, name: str):
    """Colour follows the verdict of the interval."""
    seen = parsed(page("t", tabulated(make("moe", speedup=speedup)), {}, []))
    assert name in {attrs.get("class") for tag, attrs in seen.tags if tag == "td"}


def test_a_table_without_rows_has_the_reasons(make, tabulated):
    """Failed trials alone make a section without a grid."""
    made = tabulated(make("moe", status="failed", reason="out of memory"))
    seen = parsed(page("t", made, {}, []))
    assert "failed: moe (seed 0): out of memory" in seen.text
    assert "tbody" not in [tag for tag, _ in seen.tags]
