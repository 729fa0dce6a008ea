"""The command line: verbs, exit codes, one message per error, and no import before it is needed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bench import cli

if TYPE_CHECKING:
    from conftest import House


def test_help_shows_the_verbs_examples_and_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    """--help is enough to get started."""
    with pytest.raises(SystemExit) as caught:
        cli.main(["--help"])
    printed = capsys.readouterr().out
    assert caught.value.code == 0
    for word in ("run", "report", "list", "publish", "method=moe,dense", "exit codes:", "130"):
        assert word in printed


def test_help_imports_nothing_heavy() -> None:
    """--help loads no third-party package, which keeps it fast."""
    code = (
        "import sys, bench.cli\ntry: bench.cli.main(['--help'])\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'hydra', 'omegaconf', 'pandas', 'numpy', 'pydantic', 'wandb', 'yaml'}\n"
        "print('LOADED', sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "LOADED []"


@pytest.mark.parametrize("words", [[], ["fly"], ["report"], ["run", "--fast"], ["list", "method"]])
def test_bad_usage_exits_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """A missing or unknown verb, argument or option is bad usage."""
    try:
        code = cli.main(words)
    except SystemExit as caught:  # argparse's own
        code = caught.code
    assert code == 2
    assert "condbench" in capsys.readouterr().err


def test_a_plan_is_listed_and_nothing_is_written(
    house: House, capsys: pytest.CaptureFixture[str]
) -> None:
    """run --plan prints a headline and a line per trial; options may stand anywhere."""
    assert cli.main(["run", "method=moe", "--plan", "seed=3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "adhoc: 2 trials: 2 to do"
    assert [line.split("-")[0] for line in lines[1:]] == [
        "  to do      digits/transformer/dense/seed3",
        "  to do      digits/transformer/moe/seed3",
    ]
    assert not Path("results").exists()


def test_planning_errors_are_one_message_and_exit_2(
    house: House, capsys: pytest.CaptureFixture[str]
) -> None:
    """No traceback: what, where, and the choices."""
    assert cli.main(["run", "method=mow"]) == 2
    assert capsys.readouterr().err == (
        "condbench: command line: unknown method 'mow': did you mean 'moe'? choices: dense, moe\n"
    )


def test_a_broken_plugin_is_named_on_standard_error(
    house: House, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is left out of a plan is printed, also when the rest is fine."""
    house.offer("method", broken="no_such_module_here:Broken")
    assert cli.main(["run", "--plan", "method=moe,broken"]) == 0
    printed = capsys.readouterr()
    assert "left out: method 'broken' (fakehouse 1.0, no_such_module_here:Broken)" in printed.err
    assert "2 to do" in printed.out


def test_list_shows_plugins_their_sentence_and_what_is_broken(
    house: House, capsys: pytest.CaptureFixture[str]
) -> None:
    """Methods, backbones and tasks with one line each; a broken one with its cause."""
    house.offer("method", broken="no_such_module_here:Broken")
    assert cli.main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "  moe                  Mixture of experts, on paper. [fakehouse]" in lines
    assert "  digits               A task on paper. [fakehouse]" in lines
    (broken,) = [line for line in lines if line.startswith("  broken ")]
    assert "BROKEN: method 'broken'" in broken
    assert "ModuleNotFoundError" in broken
    assert any(line.startswith("  quickstart ") for line in lines)


def test_list_shows_kinds_and_sizes(capsys: pytest.CaptureFixture[str]) -> None:
    """Tasks are listed with input and sample counts, backbones of every size with their cost."""
    assert cli.main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    audio = r"  keywords +audio 32x32; 5,000 / 500 / 1,000: Which of ten words is spoken\?"
    assert any(re.match(audio, line) for line in lines)
    assert any(re.match(r"  numbers +seq2seq \d+ to \d+; ", line) for line in lines)
    family = r"  resnet .* Defaults: 270 K parameters, 40.6 M MAC at 3x32x32\.$"
    assert any(re.match(family, line) for line in lines)
    assert any(re.match(r"    resnet56 .* 853 K parameters, 125 M MAC at", line) for line in lines)


def test_list_shows_variants_below_what_they_set(capsys: pytest.CaptureFixture[str]) -> None:
    """A size stands below its family, a method's settings below the method."""
    assert cli.main(["list"]) == 0
    family, below = "", {}
    for line in capsys.readouterr().out.splitlines():
        if re.match(r"  \w", line):
            family = line.split()[0]
        elif line.startswith("    "):
            below[line.split()[0]] = family
    wanted = {"resnet56": "resnet", "deit_ti": "transformer", "moe_top1": "moe"}
    assert wanted.items() <= below.items()
    assert below["text_256"] == "text"
    assert below["random_topk_ffn"] == "random_skip"


def test_list_prints_whole_sentences(capsys: pytest.CaptureFixture[str]) -> None:
    """No description ends where a line of its file does, and none at the dot of "et al."."""
    assert cli.main(["list"]) == 0
    for line in filter(None, capsys.readouterr().out.splitlines()):
        if line.startswith("  "):
            assert line.endswith((".", "?")), line
            assert not line.endswith("al."), line


def test_list_makes_no_data(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Listing generates neither images nor audio."""

    def fail(*arguments: object) -> None:
        raise AssertionError

    monkeypatch.setattr("bench.tasks.digits._generate", fail)
    monkeypatch.setattr("bench.tasks.keywords.generate_waves", fail)
    assert cli.main(["list"]) == 0
    assert "64,000 / 8,000 / 8,000" in capsys.readouterr().out


def test_a_report_of_nothing_exits_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder that is not there is named."""
    assert cli.main(["report", str(tmp_path / "nowhere")]) == 2
    assert f"{tmp_path / 'nowhere'}" in capsys.readouterr().err


def test_an_interrupt_exits_130_without_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C while planning or reporting ends in one line."""

    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("bench.listing.listing", interrupted)
    assert cli.main(["list"]) == 130
    assert capsys.readouterr().err == "condbench: interrupted\n"


@pytest.mark.parametrize(
    ("words", "called", "said"),
    [
        (["run", "method=dense"], "bench.run.run", "interrupted; rerun to resume"),
        # Its workers and their measurements are gone: the same command begins anew.
        (["compare", "--rev", "a", "b"], "bench.regress.compare.compare", "nothing was kept"),
        (["nightly"], "bench.regress.nightly.nightly", "interrupted; nothing was kept"),
    ],
)
def test_an_interrupt_promises_only_what_is_kept(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    called: str,
    said: str,
) -> None:
    """A run is resumed; a comparison of revisions is not."""

    def interrupted(*given: object, **named: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(called, interrupted)
    assert cli.main(words) == 130
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(("more", "code"), [("--plan", 0), ("", 1)])
def test_a_run_with_a_closed_pipe_is_no_success(tmp_path: Path, more: str, code: int) -> None:
    """`condbench run | true` ran nothing and exits 1; for --plan the output was everything."""
    run = f"{sys.executable} -m bench.cli run method=dense results={tmp_path}/results {more}"
    done = subprocess.run(
        ["bash", "-c", f"{run} | true; exit ${{PIPESTATUS[0]}}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code
    message = "condbench: output pipe closed; rerun to resume\n"
    assert done.stderr == ("" if code == 0 else message)
    assert not (tmp_path / "results").exists()


def test_a_closed_pipe_is_no_error_for_a_list() -> None:
    """`condbench list | head -1` ends quietly."""
    command = f"{sys.executable} -m bench.cli --help | true; {sys.executable} -m bench.cli list"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", f"{command} | head -1"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "methods (method=NAME)\n"
    assert "Traceback" not in done.stderr
