"""The page in a real browser: it renders without console messages and requests."""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from bench.report import build

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def browser() -> str:
    """A headless browser's path; without one the test fails and names the package."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.fail("a browser is needed: apt-get install chromium")
    return found


def run(arguments: list[str], page: Path) -> subprocess.CompletedProcess[str]:
    """The browser on a page, without a display, a profile or a network."""
    fixed = ["--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--v=0"]
    profile = f"--user-data-dir={page.parent / 'profile'}"
    offline = "--host-resolver-rules=MAP * ~NOTFOUND"
    command = [browser(), *fixed, profile, offline, *arguments, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


@pytest.mark.soak
def test_the_page_renders_without_complaint(make, tree, tmp_path: Path):
    """The table is in the document, the console is silent, and the figure has its real size."""
    points = [{"settings": {"k": k}, "metrics": {}} for k in (1, 2)]
    hostile = make("<script>console.log('run')</script>")
    root = tree(make(), make("moe", share=0.5, speedup=1.5, points=points), hostile)
    build([root], tmp_path / "out")
    page = tmp_path / "out" / "report.html"
    done = run(["--dump-dom"], page)
    assert "CONSOLE" not in done.stderr
    assert "<tbody>" in done.stdout
    assert "&lt;script&gt;console.log('run')&lt;/script&gt;" in done.stdout
    picture = tmp_path / "out" / "page.png"
    run([f"--screenshot={picture}", "--window-size=1200,900"], page)
    assert struct.unpack(">II", picture.read_bytes()[16:24]) == (1200, 900)
    assert picture.stat().st_size > 20_000  # a blank page is a few kilobytes


@pytest.mark.soak
def test_cards_and_harder_inputs_render_without_complaint(
    make, tree, harder, routing, tmp_path: Path
):
    """Pictures are part of the page and folded: opening them changes the screenshot."""
    changed = harder([80.0, 75, 70, 65, 60, 55], [5e7, 5.2e7, 5.4e7, 5.6e7, 5.8e7, 6e7])
    on = routing(collapsed=["exit0"])
    build([tree(make(), make("early_exit", changed=changed, diagnostics=on))], tmp_path / "out")
    page = tmp_path / "out" / "report.html"
    opened = page.with_name("opened.html")
    closed = '<details class="diagnostics">'
    opened.write_text(page.read_text().replace(closed, '<details class="diagnostics" open>'))
    done = run(["--dump-dom"], page)
    assert "CONSOLE" not in done.stderr
    assert done.stdout.count("<svg") == 3
    assert "Robustness" in done.stdout
    seen = []
    for each in (page, opened):
        picture = each.with_suffix(".png")
        run([f"--screenshot={picture}", "--window-size=1200,1600"], each)
        seen.append(picture.read_bytes())
    assert seen[0] != seen[1]


@pytest.mark.soak
def test_the_browser_would_have_complained(tmp_path: Path):
    """A page that logs to its console is noticed: the silence above means something."""
    page = tmp_path / "loud.html"
    page.write_text("<script>console.log('loud')</script>")
    assert "loud" in run(["--dump-dom"], page).stderr
