"""Every experiment, profile and named variant that we ship composes, with the real plugins."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from bench import plugins
from bench.config import Config
from bench.listing import descriptions
from bench.plan.matrix import Plan, make_plan
from bench.plan.planned import PlannedTrial

CONF = Path(__file__).parents[2] / "conf"
EXPERIMENTS = [name for name, _ in descriptions(files("bench.conf") / "experiment")]
VARIANTS = {
    kind: sorted(path.stem for path in (CONF / kind).glob("*.yaml")) for kind in plugins.GROUPS
}


# One plan instead of one per file: it hashes code and data, and meets every plugin, once.
@pytest.fixture(scope="module")
def whole() -> Plan:
    """The plan of all experiments together."""
    return make_plan([f"experiment={','.join(EXPERIMENTS)}"])


@pytest.fixture(scope="module")
def quickstart() -> list[PlannedTrial]:
    """The trials of the default experiment."""
    return make_plan([]).trials


def test_every_experiment_plans(whole: Plan) -> None:
    """Every file in conf/experiment names plugins and settings that exist; none is left out."""
    assert whole.left_out == []
    names = {trial.labels.experiment for trial in whole.trials}
    # Several files may fill one folder, such as what is converted and what is trained from scratch.
    said = {
        OmegaConf.load(CONF / "experiment" / f"{file}.yaml").get("name") for file in EXPERIMENTS
    }
    assert names == said
    assert Config.name not in names


def test_every_experiment_says_what_it_is() -> None:
    """`condbench list` shows each file's first comment, a sentence."""
    about = dict(descriptions(files("bench.conf") / "experiment"))
    assert [name for name, sentence in about.items() if not sentence.endswith(".")] == []


def test_the_quickstart_is_the_promised_matrix(quickstart: list[PlannedTrial]) -> None:
    """Two tasks, seven methods and a second control, one seed, one backbone, measured quickly."""
    methods = [
        *("dense", "topk_ffn", "branches", "early_exit", "mixture_of_depths", "moe_eighth"),
        *("shrunk_dense", "shrunk_dense_third"),
    ]
    assert [(t.labels.task, t.labels.method) for t in quickstart] == [
        (task, method) for task in ("digits", "text_brief") for method in methods
    ]
    assert {t.labels.seed for t in quickstart} == {0}
    assert {t.labels.backbone for t in quickstart} == {"transformer_small"}
    assert {t.config["measure"]["profile"] for t in quickstart} == {"quick"}


def test_all_trials_of_a_task_share_one_dense_model(quickstart: list[PlannedTrial]) -> None:
    """The dense model of a task is trained once."""
    pairs = {(trial.labels.task, trial.checkpoint) for trial in quickstart}
    assert sorted(task for task, _ in pairs) == ["digits", "text_brief"]


@pytest.mark.parametrize("kind", VARIANTS)
def test_every_named_variant_composes(kind: str) -> None:
    """Each file below conf/method, task and backbone is its plugin with other settings."""
    plan = make_plan([f"{kind}={','.join(VARIANTS[kind])}"])
    assert plan.left_out == []
    assert {getattr(trial.labels, kind) for trial in plan.trials} >= set(VARIANTS[kind])


@pytest.mark.parametrize("profile", ["quick", "standard", "publish", "static"])
def test_a_profile_is_called_like_its_file(profile: str) -> None:
    """A record's measure.profile names the file that it came from."""
    trial = make_plan(["method=dense", f"measure={profile}"]).trials[0]
    assert trial.config["measure"]["profile"] == profile


def test_no_file_is_called_like_a_plugin() -> None:
    """Hydra would validate the file against the plugin's schema, which 1.4 no longer does."""
    for kind in plugins.GROUPS:
        stems = {path.stem for path in (CONF / kind).glob("*.yaml")}
        assert stems & set(plugins.choices(kind)) == set()


def test_a_paper_experiment_plans_what_its_rows_need() -> None:
    """One trial for each model of the data file, no dense one beside it, and settings still win."""
    plan = make_plan(["experiment=paper/keywords", "task.num_outputs=3"])
    assert [trial.labels.backbone for trial in plan.trials] == ["res15", "res15_narrow"]
    assert {trial.labels.experiment for trial in plan.trials} == {"paper-keywords"}
    assert {trial.config["task"]["num_outputs"] for trial in plan.trials} == {3}
    assert all(trial.config["measure"]["counts_only"] for trial in plan.trials)
