"""What makes a result stale: code that can change a number, and nothing else."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.plan.identity import canonical, closure, code_hash, key_of, training_closure

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package idea/ whose method imports its gate, absolutely and relatively."""
    files = {
        "__init__.py": "",
        "method.py": "import torch\nfrom idea import gate\nfrom .inner.part import f\nX = 1\n",
        "gate.py": "def decide():\n    return 1\n",
        "inner/__init__.py": "",
        "inner/part.py": "from .. import deep\ndef f(): ...\n",
        "deep.py": "Y = 2\n",
        "unrelated.py": "Z = 3\n",
    }
    for name, text in files.items():
        path = tmp_path / "idea" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "idea", raising=False)
    return tmp_path / "idea"


def test_the_closure_follows_imports_inside_the_package(package: Path) -> None:
    """Absolute, relative and transitive imports of the same package count, others do not."""
    assert list(closure("idea.method")) == [
        *("idea", "idea.deep", "idea.gate", "idea.inner", "idea.inner.part", "idea.method"),
    ]


def test_the_closure_executes_no_submodule(package: Path) -> None:
    """Reading code is not importing it."""
    (package / "gate.py").write_text("raise RuntimeError('executed')")
    code_hash("idea.method")
    assert "idea.method" not in sys.modules


@pytest.mark.parametrize("name", ["method.py", "gate.py", "inner/part.py", "deep.py"])
def test_changed_code_changes_the_hash(package: Path, name: str) -> None:
    """A statement added anywhere in the closure makes another hash."""
    before = code_hash("idea.method")
    path = package / name
    path.write_text(path.read_text() + "\nADDED = 1\n")
    assert code_hash("idea.method") != before


def test_unrelated_code_changes_nothing(package: Path) -> None:
    """A module that the method does not import is not part of it."""
    before = code_hash("idea.method")
    (package / "unrelated.py").write_text("Z = 4\n")
    assert code_hash("idea.method") == before


def test_comments_docstrings_and_layout_change_nothing(package: Path) -> None:
    """What cannot change a number does not make a result stale."""
    before = code_hash("idea.method")
    (package / "gate.py").write_text(
        '"""Gates."""\n\n\ndef decide():  # why\n    """Decide."""\n    return (1)\n'
    )
    assert code_hash("idea.method") == before


def test_a_string_that_is_no_docstring_counts(package: Path) -> None:
    """Only a docstring's text is ignored."""
    (package / "gate.py").write_text("MODE = 'a'\n")
    before = code_hash("idea.method")
    (package / "gate.py").write_text("MODE = 'b'\n")
    assert code_hash("idea.method") != before


def test_a_single_file_module_is_hashed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plugin may be one file without a package."""
    (tmp_path / "lone_idea.py").write_text("X = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert list(closure("lone_idea")) == ["lone_idea"]


PLUGIN = "import torch\nimport shared_part\nimport elsewhere\nfrom methods.experts.moe import MoE\n"


def offer(root: Path, name: str, **files: str) -> None:
    """Modules below `root`, and metadata of a distribution that lists them."""
    for module, text in files.items():
        (root / f"{module}.py").write_text(text)
    info = root / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "RECORD").write_text("".join(f"{module}.py,,\n" for module in files))


def test_a_plugin_counts_with_what_it_imports_of_its_distribution_and_of_methods(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Installed side by side, the distribution tells its own modules from foreign ones."""
    site = tmp_path / "site-packages"
    site.mkdir()
    offer(site, "ours", lone_plugin=PLUGIN, shared_part="X = 1\n")
    offer(site, "theirs", elsewhere="Y = 1\n")
    monkeypatch.syspath_prepend(str(site))
    found = closure("lone_plugin", "ours")
    assert {
        "lone_plugin",
        "shared_part",
        "methods",
        "methods.experts.moe",
        "methods.parts.dispatch",
    } <= set(found)
    assert not {"elsewhere", "torch"} & set(found)


def test_a_plugin_under_development_counts_with_the_modules_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An editable install lists no files: what lies in the same folder is its own."""
    (tmp_path / "lone_plugin.py").write_text(PLUGIN)
    (tmp_path / "shared_part.py").write_text("X = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    before = code_hash("lone_plugin", distribution="not-installed")
    assert "shared_part" in closure("lone_plugin", "not-installed")
    (tmp_path / "shared_part.py").write_text("X = 22\n")
    assert code_hash("lone_plugin", distribution="not-installed") != before


def test_what_training_costs_is_measured_by_few_rooms() -> None:
    """Their code decides about a stored dense model; meters of inference do not."""
    rooms = set(training_closure())
    assert {
        "bench.trial.train",
        "bench.measure.training_probe",
        "bench.meters.flops.counter",
        "bench.meters.memory.tensors",
    } <= rooms
    assert {"bench.measure.energy.training", "bench.meters.energy"} <= rooms
    assert not {"bench.measure", "bench.measure.speed", "bench.meters.time.latency"} & rooms


def test_a_module_without_source_is_an_error() -> None:
    """Code that cannot be read cannot enter a key silently."""
    with pytest.raises(LookupError, match="no_such_module_here"):
        code_hash("no_such_module_here")


def test_the_measuring_rooms_are_those_that_can_change_a_number() -> None:
    """Meters, training and the trial count; records, publishing and the report do not."""
    rooms = closure("bench.trial.run")
    assert {"bench.trial.run", "bench.trial.train", "bench.routing"} <= set(rooms)
    assert any(room.startswith("bench.meters.") for room in rooms)
    assert not {"bench", "bench.records.record", "bench.publish.runs", "bench.plugins"} & set(rooms)
    assert not [room for room in rooms if room.startswith(("bench.report", "bench.tasks."))]


@given(JSON)
def test_a_key_does_not_depend_on_the_order_of_keys(content: object) -> None:
    """Dictionaries that are equal have one key, however they were filled."""
    assert key_of({"a": 1, "b": content}) == key_of({"b": content, "a": 1})


@given(JSON, JSON)
def test_different_content_has_different_keys(one: object, other: object) -> None:
    """Keys agree exactly where canonical JSON agrees."""
    assert (key_of(one) == key_of(other)) == (canonical(one) == canonical(other))


def test_a_key_is_the_sha256_of_canonical_json() -> None:
    """sha256('{"a":[1,2.5],"b":null}') as sha256sum gives it."""
    known = "f66b2c50ccae61e3"
    assert key_of({"b": None, "a": [1, 2.5]})[:16] == known


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_json_cannot_hold_are_refused(value: float) -> None:
    """NaN and infinity have no JSON, hence no key."""
    with pytest.raises(ValueError, match="NaN or infinite"):
        key_of({"lr": value})
