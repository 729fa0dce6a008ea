"""The doctor's report: exit code, measurable quantities, JSON and text."""

from __future__ import annotations

import json

import pytest

from bench.cli import main
from bench.selftest import doctor
from bench.selftest.doctor import as_json, as_text, examine, exit_code, measurable
from bench.selftest.finding import Finding

SELF_TEST = [
    Finding("self-test", name, "ok", "fine")
    for name in ("FLOPs", "memory", "noise floor", "time ratio")
]
NO_GPU = Finding("gpu", "driver", "no", "NVML is not available")
NO_RAPL = Finding("machine", "cpu energy", "no", "no RAPL")
LAPTOP = [NO_RAPL, NO_GPU, *SELF_TEST]


def with_gpu(energy: Finding | None):
    found = [Finding("gpu", name, "ok", "there") for name in ("driver", "torch")]
    return [*found, *SELF_TEST, *([energy] if energy else [])]


def test_a_missing_gpu_is_no_failure_and_a_wrong_meter_is():
    """The exit code is 0 unless something required fails."""
    assert exit_code(LAPTOP) == 0
    assert exit_code([*LAPTOP, Finding("machine", "load", "warning", "busy")]) == 0
    assert exit_code([*LAPTOP, Finding("self-test", "FLOPs", "failed", "wrong")]) == 1


def test_a_laptop_measures_all_but_energy():
    """Each quantity is "yes", or "no" with the reason."""
    assert measurable(LAPTOP) == {
        "FLOPs": "yes",
        "memory": "yes",
        "time": "yes",
        "GPU energy": "no: NVML is not available",
        "CPU energy": "no: no RAPL",
    }


@pytest.mark.parametrize(
    ("energy", "verdict"),
    [
        (Finding("self-test", "energy of cuda:0", "ok", "fine"), "yes"),
        (Finding("self-test", "energy of cuda:0", "no", "MIG"), "no: MIG"),
        (Finding("self-test", "energy of cuda:0", "failed", "counter"), "no: counter"),
        (None, "not examined"),
    ],
)
def test_a_gpu_measures_energy_only_if_its_counter_was_tested(energy, verdict):
    """A driver and torch alone do not prove a counter."""
    assert measurable(with_gpu(energy))["GPU energy"] == verdict


def test_a_torch_without_cuda_is_the_reason_why_a_gpu_is_not_measured():
    """The driver shows a board, torch cannot use it."""
    findings = [
        Finding("gpu", "driver", "ok", "1 board"),
        Finding("gpu", "torch", "warning", "a build for CPUs"),
    ]
    assert measurable(findings)["GPU energy"] == "no: a build for CPUs"


def test_a_noisy_machine_measures_time_with_a_warning():
    """The A/A noise floor is part of the verdict."""
    noisy = Finding("self-test", "noise floor", "warning", "below 20 %")
    findings = [each for each in SELF_TEST if each.name != "noise floor"]
    assert measurable([noisy, *findings])["time"] == "yes, but: below 20 %"


def test_this_machine_is_examined_in_every_part(tmp_path):
    """Processor, GPUs, W&B, Slurm and folders each have a text; none may fail here."""
    findings = examine(tmp_path)
    names = {(each.part, each.name) for each in findings}
    wanted = {"cpu", "threads", "load", "trials", "frequency", "memory", "cpu energy"}
    assert {("machine", name) for name in wanted} <= names
    assert {("gpu", "driver"), ("services", "wandb"), ("services", "slurm")} <= names
    assert all(each.text for each in findings)
    assert exit_code(findings) == 0


def test_a_results_folder_that_cannot_be_written_fails(tmp_path, monkeypatch):
    """A run would lose its records there."""
    monkeypatch.setattr("os.access", lambda path, mode: False)
    assert exit_code(examine(tmp_path / "results" / "deeper")) == 1


def test_keys_are_reported_as_present_and_never_shown(tmp_path, monkeypatch):
    """A report pasted into an issue contains no secret."""
    monkeypatch.setenv("WANDB_API_KEY", "s3cret" * 7)
    findings = examine(tmp_path)
    assert "s3cret" not in as_json(findings) + as_text(findings)
    (wandb,) = [each for each in findings if each.name == "wandb"]
    assert wandb.details["has_key"] is True


@pytest.mark.parametrize(("status", "code"), [("ok", 0), ("failed", 1)])
def test_the_verb_prints_json_and_exits_with_its_code(monkeypatch, capsys, status, code):
    """`condbench doctor --json` is for programs: findings, verdicts, exit code."""
    made = [*LAPTOP, Finding("self-test", "energy of cuda:0", status, "text")]
    monkeypatch.setattr(doctor, "examine_and_test", lambda results: made)
    assert main(["doctor", "--json"]) == code
    printed = json.loads(capsys.readouterr().out)
    assert printed["exit_code"] == code
    assert printed["findings"][-1]["status"] == status
    assert printed["measurable"]["FLOPs"] == "yes"


def test_the_verb_prints_one_line_per_finding(monkeypatch, capsys):
    """Plain text, without --json."""
    monkeypatch.setattr(doctor, "examine_and_test", lambda results: LAPTOP)
    assert main(["doctor"]) == 0
    printed = capsys.readouterr().out
    assert "GPU energy" in printed
    assert all(finding.text in printed for finding in LAPTOP)
