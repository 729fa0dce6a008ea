"""The machine and software of a record: observed, and nothing of another project's."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bench.records import environment
from bench.records.layout import part

GIT = ["git", "-c", "user.name=a", "-c", "user.email=a@b"]


def repository(place: Path, *tracked: str) -> None:
    """A git repository in which only `tracked` is committed."""
    subprocess.run([*GIT, "init", "-q", place], check=True)
    subprocess.run([*GIT, "-C", place, "add", *tracked], check=True)
    subprocess.run([*GIT, "-C", place, "commit", "-qm", "all"], check=True)


def commit_seen_by(package: Path) -> str:
    """What git_commit returns in a copy of its module, in a process of its own."""
    package.mkdir(parents=True, exist_ok=True)
    code = f"import sys; sys.path.insert(0, {str(package)!r}); import environment as e\n"
    code += "print(e.git_commit())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.mark.parametrize(("ours", "known"), [(True, True), (False, False)])
def test_a_commit_is_that_of_a_repository_that_tracks_us(
    tmp_path: Path, ours: bool, known: bool
) -> None:
    """A wheel in a virtual environment inside another repository has no commit."""
    package = tmp_path / "venv" / "bench"
    package.mkdir(parents=True)
    shutil.copy(str(environment.__file__), package)
    (tmp_path / "theirs.py").write_text("")
    repository(tmp_path, "theirs.py", *(["venv"] if ours else []))
    found = commit_seen_by(package)
    assert (len(found) == 40 and found != "None") == known


def test_how_torch_computes_is_recorded_where_torch_is_imported() -> None:
    """torch is not imported for it; the record has the settings in force."""
    code = (
        "import sys, json\nfrom bench.records import environment as e\n"
        "assert e.numerics() is None and 'torch' not in sys.modules\n"
        "import torch\ntorch.set_default_dtype(torch.float64)\n"
        "torch.set_float32_matmul_precision('high')\ntorch.backends.cudnn.benchmark = True\n"
        "print(json.dumps(e.fingerprint()['numerics']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert json.loads(done.stdout) == {
        "default_dtype": "float64",
        "float32_matmul_precision": "high",
        "matmul_tf32": True,
        "cudnn_tf32": True,
        "cudnn_benchmark": True,
        "cudnn_deterministic": False,
        "deterministic_algorithms": False,
    }


def test_the_hardware_class_and_the_record_name_the_same_processor() -> None:
    """`cpu-<cores>x-` and the processor's name in folders; the parts stand in the environment."""
    found = environment.fingerprint()
    name = environment.hardware_class()
    assert name == f"cpu-{found['num_cores']}x-{environment.processor().folder_name}"
    assert part(name) == name
    assert found["cpu"] == environment.processor().as_json()
