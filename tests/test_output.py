"""What a verb prints: in any encoding, without secrets, and nothing of a record that steers."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest

from bench.cli import main
from bench.cli.output import safe_output
from bench.records.record import RECORD_NAME
from bench.report import build

TRIAL = next(
    (Path(__file__).parents[1] / "results" / "published" / "moe").rglob(RECORD_NAME)
).parent
EVIL = "caf\xe9 \u00b1 \u202etxt\x1b[2J\x9b \u2066x [x](javascript:alert(1)) <b>"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A published record whose free words are EVIL, beside a valid record."""
    root = tmp_path / "caf\xe9"
    for name in ("evil", "good"):
        shutil.copytree(TRIAL, root / name)
    path = root / "evil" / RECORD_NAME
    content = json.loads(path.read_text())
    content["labels"] |= dict.fromkeys(("task", "method", "variant"), EVIL)
    content["notes"] = [EVIL]
    path.write_text(json.dumps(content))
    (root / "half").mkdir()
    (root / "half" / RECORD_NAME).write_text('{"caf\xe9')
    return root


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "koi8-r"])
def test_text_degrades_and_nothing_raises(
    tree: Path, encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A report with names in other scripts on outputs that have no such characters."""
    streams = {name: io.BytesIO() for name in ("stdout", "stderr")}
    for name, raw in streams.items():
        monkeypatch.setattr(f"sys.{name}", io.TextIOWrapper(raw, encoding, write_through=True))
    assert main(["report", str(tree)]) == 0
    assert b"left out: " in streams["stderr"].getvalue()
    assert b"transformer" in streams["stdout"].getvalue()


def test_a_process_in_the_c_locale_reports(tree: Path) -> None:
    """Paths too are ASCII there: the tree's own name cannot be decoded."""
    encoding = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    code = "import sys; from bench.cli import main; sys.exit(main(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", code, "report", os.fsencode(tree)],
        env={**os.environ, **encoding},
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    assert b"Traceback" not in done.stderr
    assert b"left out: " in done.stderr
    assert b"transformer" in done.stdout


@pytest.mark.parametrize(
    ("encoding", "text", "shown"),
    [
        ("ascii", "saves \u00b1 3 %, caf\xe9, \u6a21", b"saves +/- 3 %, cafe, ?"),
        ("latin-1", "\u00b1 \xe9 \u2192 \u6a21", b"\xb1 \xe9 -> ?"),
        ("utf-8", "\u00b1 \u6a21 \ud800", "\u00b1 \u6a21 ?".encode()),
    ],
)
def test_characters_that_an_encoding_lacks(
    monkeypatch: pytest.MonkeyPatch, encoding: str, text: str, shown: bytes
) -> None:
    """Signs are spelled, accents dropped, the rest becomes a question mark."""
    raw = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(raw, encoding=encoding))
    with safe_output():
        print(text, flush=True)
    assert raw.getvalue() == shown + b"\n"


def test_no_secret_is_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever prints it, on both streams."""
    monkeypatch.setenv("HF_TOKEN", "correct horse")
    with safe_output():
        print("it is correct horse")
        print("and correct horse", file=sys.stderr)
        sys.stdout.writelines(["correct horse\n"])
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("it is ***\n***\n", "and ***\n")


def test_a_closed_output_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Started with `>&-` there is no stream at all."""
    monkeypatch.setattr("sys.stdout", None)
    with safe_output():
        print("nothing")


def test_no_file_of_a_report_steers_its_reader(tree: Path) -> None:
    """ESC, marks that reverse a line, and links are gone from Markdown, CSV, LaTeX and HTML."""
    for path in build([tree]).paths:
        if path.suffix == ".png":
            continue
        text = path.read_text(encoding="utf-8")
        kinds = {
            unicodedata.category(char) for char in text.replace("\n", "").replace("\u200b", "")
        }
        assert not kinds & {"Cc", "Cf", "Cs"}, path.name
        assert "<b>" not in text or path.suffix == ".csv"
    assert "](javascript:a" not in (tree / "report" / "table.md").read_text(encoding="utf-8")
    rows = csv.DictReader((tree / "report" / "table.csv").read_text(encoding="utf-8").splitlines())
    assert any("caf\xe9" in row["method"] for row in rows)
