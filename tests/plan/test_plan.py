"""Overrides and experiment files become the right trials, in order, with the right keys."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import pytest

from bench.listing import listing
from bench.plan import compose
from bench.plan.matrix import PlanError, make_plan

if TYPE_CHECKING:
    from conftest import House

    from bench.plan.planned import PlannedTrial


def cells(*overrides: str) -> list[str]:
    """task/method,variant/seed of every planned trial, in order."""
    return [cell(trial) for trial in make_plan(overrides).trials]


def cell(trial: PlannedTrial) -> str:
    """task/method,variant/seed."""
    labels = trial.labels
    return "/".join(
        [labels.task, ",".join(filter(None, [labels.method, labels.variant])), str(labels.seed)]
    )


def only(*overrides: str) -> PlannedTrial:
    """The one trial of moe that the overrides plan."""
    (trial,) = [t for t in make_plan(["method=moe", *overrides]).trials if t.labels.method == "moe"]
    return trial


def test_commas_expand_into_the_matrix_grouped_by_dense_model(house: House) -> None:
    """Methods x tasks x seeds; each (task, seed) begins with its dense model."""
    assert cells("method=moe,dense", "task=digits,text", "seed=0,1") == [
        *("digits/dense/0", "digits/moe/0", "digits/dense/1", "digits/moe/1"),
        *("text/dense/0", "text/moe/0", "text/dense/1", "text/moe/1"),
    ]


def test_the_dense_model_is_an_implicit_trial(house: House) -> None:
    """A method's dense model is planned, first, though nobody asked for it."""
    assert cells("method=moe") == ["digits/dense/0", "digits/moe/0"]


@pytest.mark.parametrize("key", ["name", "results"])
def test_a_sweep_over_where_results_go_plans_every_place(house: House, key: str) -> None:
    """The same trial in two places is two trials, each place with its dense model first."""
    trials = make_plan(["method=moe", f"{key}=a,b"]).trials
    places = [(trial.config[key], trial.labels.method) for trial in trials]
    assert places == [("a", "dense"), ("a", "moe"), ("b", "dense"), ("b", "moe")]
    assert len({trial.folder for trial in trials}) == 4
    assert {trial.labels.experiment for trial in trials} == {t.config["name"] for t in trials}


def test_a_setting_of_an_enumeration_is_planned_by_name(house: House) -> None:
    """Its default makes no variant, another member does, and the plan can make the plugin."""
    house.offer("method", ordered="Ordered")
    trials = make_plan(["method=ordered", "method.order=TOKENS,EXPERTS"]).trials
    assert [t.labels.variant for t in trials[1:]] == ["", "order=EXPERTS"]
    assert trials[2].config["method"]["several"] == ["EXPERTS"]


def test_a_key_goes_to_the_methods_that_have_it(house: House) -> None:
    """Two trials of moe; dense, which has no such setting, is planned once and as it is."""
    trials = make_plan(["method=moe,dense", "method.num_experts=2,4"]).trials
    assert [cell(t) for t in trials] == [
        *("digits/dense/0", "digits/moe,num_experts=2/0", "digits/moe,num_experts=4/0"),
    ]
    nested = make_plan(["method=dense,moe", "method.router.rate=0.1"]).trials
    assert [cell(t) for t in nested] == ["digits/dense/0", "digits/moe,router.rate=0.1/0"]


def test_a_key_may_name_its_method(house: House) -> None:
    """Of two methods with the same setting one is meant; the other keeps its default."""
    house.offer("method", other="MoE2")
    with house.source.open("a") as file:
        file.write("\n\n@dataclass\nclass MoE2(MoE):\n    pass\n")
    trials = make_plan(["method=moe,other", "method.moe.num_experts=2,4", "method.top_k=2"]).trials
    assert [cell(t) for t in trials[1:]] == [
        "digits/moe,num_experts=2,top_k=2/0",
        "digits/moe,num_experts=4,top_k=2/0",
        "digits/other,top_k=2/0",
    ]


def test_dense_settings_of_one_group_are_those_of_its_methods(house: House) -> None:
    """Another training recipe is another dense model, with a checkpoint of its own."""
    trials = make_plan(["method=moe", "train.steps=10,20"]).trials
    assert [cell(t) for t in trials] == [
        *("digits/dense,train.steps=10/0", "digits/moe,train.steps=10/0"),
        *("digits/dense,train.steps=20/0", "digits/moe,train.steps=20/0"),
    ]
    assert trials[0].checkpoint == trials[1].checkpoint
    assert trials[2].checkpoint == trials[3].checkpoint
    assert trials[0].checkpoint != trials[2].checkpoint


def test_settings_of_a_method_that_the_command_line_takes_out_go_with_it(house: House) -> None:
    """`method=dense` beside an experiment that sets `method.moe.top_k` is no misspelt key."""
    house.experiment(
        "table",
        "hydra:\n  sweeper:\n    params:\n      method: moe,dense\n      method.moe.top_k: 4\n",
    )
    assert cells("experiment=table", "method=dense") == ["digits/dense/0"]
    assert cells("experiment=table") == ["digits/dense/0", "digits/moe,top_k=4/0"]
    with pytest.raises(PlanError, match="unknown key 'moe'"):
        make_plan(["method=dense", "method.moe.top_k=4"])


def test_overrides_without_an_experiment_are_called_adhoc(house: House) -> None:
    """The experiment's name defaults to adhoc, and is the first folder."""
    assert only().folder.parts[:2] == ("results", "adhoc")


def test_no_argument_means_the_quickstart(house: House) -> None:
    """Without any argument the experiment quickstart is planned."""
    house.experiment("quickstart", "name: short\nseed: 3\n")
    (trial,) = make_plan([]).trials
    assert (trial.labels.experiment, trial.labels.seed) == ("short", 3)


def test_an_experiment_sweeps_in_hydras_grammar(house: House) -> None:
    """hydra.sweeper.params of an experiment file expands like the command line."""
    house.experiment(
        "table",
        "hydra:\n  sweeper:\n    params:\n      method: moe,dense\n      seed: range(2)\n"
        "train:\n  steps: 7\n",
    )
    assert cells("experiment=table") == [
        *("digits/dense,train.steps=7/0", "digits/moe,train.steps=7/0"),
        *("digits/dense,train.steps=7/1", "digits/moe,train.steps=7/1"),
    ]


def test_the_command_line_wins_over_the_experiment(house: House) -> None:
    """A key given on the command line replaces the file's value and the file's sweep."""
    house.experiment(
        "table", "hydra:\n  sweeper:\n    params:\n      seed: 0,1,2\ntrain:\n  steps: 7\n"
    )
    assert cells("experiment=table", "seed=5", "train.steps=null") == ["digits/dense/5"]


def test_an_experiment_without_a_name_is_called_like_its_file(house: House) -> None:
    """conf/experiment/paper/skipping.yaml writes below results/skipping."""
    house.experiment("paper_skipping", "seed: 1\n")
    (house.conf / "experiment" / "paper").mkdir(exist_ok=True)
    (house.conf / "experiment" / "paper_skipping.yaml").rename(
        house.conf / "experiment" / "paper" / "skipping.yaml"
    )
    (trial,) = make_plan(["experiment=paper/skipping"]).trials
    assert trial.folder.parts[:2] == ("results", "skipping")


def test_several_experiments_are_planned_together(house: House) -> None:
    """experiment=a,b plans both, each under its own name."""
    house.experiment("one", "seed: 1\n")
    house.experiment("two", "seed: 2\n")
    trials = make_plan(["experiment=one,two"]).trials
    assert [(t.labels.experiment, t.labels.seed) for t in trials] == [("one", 1), ("two", 2)]


def test_an_experiment_may_choose_and_set_a_method(house: House) -> None:
    """`override /method` and a body with the method's settings, checked against its dataclass."""
    house.experiment("table", "defaults:\n  - override /method: moe\nmethod:\n  num_experts: 16\n")
    assert cells("experiment=table") == ["digits/dense/0", "digits/moe,num_experts=16/0"]


def test_a_named_variant_is_its_method_with_other_settings(house: House) -> None:
    """conf/method/NAME.yaml is labelled by its name, and by what differs from its own settings."""
    (house.conf / "method").mkdir(exist_ok=True)
    (house.conf / "method" / "moe_small.yaml").write_text("defaults:\n  - moe\nnum_experts: 2\n")
    dense, variant = make_plan(["method=moe_small"]).trials
    assert (dense.labels.method, variant.labels.method) == ("dense", "moe_small")
    assert variant.labels.variant == ""
    assert variant.key == only("method.num_experts=2").key
    changed = make_plan(["method=moe_small", "method.num_experts=4"]).trials[-1]
    assert changed.labels.variant == "num_experts=4"


def test_a_plugin_ships_named_variants(house: House) -> None:
    """From a package of its own, which its entry point names; listed below their method."""
    folder = house.source.parent / "variants" / "method"
    folder.mkdir(parents=True)
    (folder / "few.yaml").write_text("# Few experts.\ndefaults:\n  - moe\nnum_experts: 2\n")
    for place in (folder, folder.parent):
        (place / "__init__.py").touch()
    with house.entry_points.open("a") as file:
        file.write("[condbench.variants]\nfakehouse = fakehouse.variants\n")
    trials = make_plan(["method=few"]).trials
    assert trials[-1].labels.method == "few"
    assert trials[-1].config["method"]["num_experts"] == 2
    assert "    few                    Few experts." in list(listing())


def test_variants_of_a_package_that_is_not_there_are_named(house: House) -> None:
    """A sentence, and no warning of Hydra's."""
    with house.entry_points.open("a") as file:
        file.write("[condbench.variants]\nfakehouse = fakehouse.nothing\n")
    with pytest.raises(PlanError, match=r"'fakehouse\.nothing' is not an installed package"):
        make_plan(["method=moe"])


def test_a_named_size_names_the_trials_of_the_dense_model_too(house: House) -> None:
    """conf/backbone/NAME.yaml is the backbone's label for a method and for its dense model."""
    (house.conf / "backbone").mkdir(exist_ok=True)
    (house.conf / "backbone" / "small.yaml").write_text("defaults:\n  - transformer\ndepth: 8\n")
    trials = make_plan(["method=moe", "backbone=small"]).trials
    assert [trial.labels.backbone for trial in trials] == ["small", "small"]
    assert [trial.labels.variant for trial in trials] == ["", ""]


def test_an_experiment_that_changes_a_variant_shows_what_it_changed(house: House) -> None:
    """Settings of an experiment file are no part of the name."""
    (house.conf / "method").mkdir(exist_ok=True)
    (house.conf / "method" / "moe_small.yaml").write_text("defaults:\n  - moe\nnum_experts: 2\n")
    text = "defaults:\n  - override /method: moe_small\nmethod:\n  num_experts: 16\n"
    house.experiment("table", text)
    labels = make_plan(["experiment=table"]).trials[-1].labels
    assert (labels.method, labels.variant) == ("moe_small", "num_experts=16")


def test_a_glob_chooses_every_plugin(house: House) -> None:
    """Hydra's glob(*) means all choices, imported or not."""
    assert cells("method=glob(*)") == ["digits/dense/0", "digits/moe/0"]


def test_values_are_converted_to_the_settings_type(house: House) -> None:
    """An int for a float, a list, null and nested settings arrive as their types."""
    trial = only("train.lr=1", "method.widths=[3,4]", "method.router.rate=1", "method.hidden=null")
    assert json.dumps(trial.config["train"]["lr"]) == "1.0"
    assert trial.config["method"]["widths"] == [3, 4]
    assert json.dumps(trial.config["method"]["router"]["rate"]) == "1.0"
    assert trial.config["method"]["hidden"] is None


def test_quoted_commas_are_no_sweep(house: House) -> None:
    """A quoted value is one value, in a sweep too."""
    assert only("method.hidden='a,b'").config["method"]["hidden"] == "a,b"
    methods = [
        t.config["method"] for t in make_plan(["method=moe", "method.hidden='a,b',c"]).trials
    ]
    assert [m["hidden"] for m in methods if m] == ["a,b", "c"]


def test_interpolations_follow_swept_values(house: House) -> None:
    """A value that refers to another one is resolved for each trial."""
    house.experiment("table", "train:\n  steps: ${seed}\n")
    trials = make_plan(["experiment=table", "seed=3,4"]).trials
    assert [t.config["train"]["steps"] for t in trials] == [3, 4]


def test_the_same_trial_asked_for_twice_is_planned_once(house: House) -> None:
    """A key appears once in a plan."""
    assert cells("method=moe", "method.top_k=1,1", "seed=0,0") == ["digits/dense/0", "digits/moe/0"]


def test_trial_json_holds_everything_resolved(house: House) -> None:
    """The content has the contract's fields, strict JSON, and the folder ends in seed and key."""
    trial = only("seed=3", "method.num_experts=4")
    content = json.loads(json.dumps(trial.content(), allow_nan=False))
    assert list(content) == [
        *("schema_version", "key", "labels", "entry_points", "config", "identity", "dense"),
    ]
    assert content["entry_points"] == {
        "method": "fakehouse:MoE",
        "backbone": "fakehouse:Transformer",
        "task": "fakehouse:Digits",
    }
    assert content["config"]["method"]["num_experts"] == 4
    assert set(content["identity"]) == {"config", "code", "versions", "hardware", "data"}
    assert trial.folder.name == f"seed3-{trial.key[:8]}"
    assert trial.folder.parent.name == "moe,num_experts=4"


def test_only_chosen_plugins_are_imported(house: House) -> None:
    """A plugin that nobody chose is not imported, so it cannot break the run."""
    (house.source.parent / "bad.py").write_text("raise RuntimeError('boom')")
    house.offer("method", bad="fakehouse.bad:Bad")
    assert make_plan(["method=moe"]).left_out == []
    assert "fakehouse.bad" not in sys.modules


def test_a_broken_plugin_is_left_out_and_the_rest_is_planned(house: House) -> None:
    """A chosen plugin that does not import is named with its cause; the others go on."""
    house.offer("method", broken="no_such_module_here:Broken")
    plan = make_plan(["method=broken,moe"])
    assert [cell(t) for t in plan.trials] == ["digits/dense/0", "digits/moe/0"]
    (line,) = plan.left_out
    assert line.startswith("method 'broken'")
    assert "ModuleNotFoundError" in line


def test_settings_that_hydra_cannot_type_make_a_broken_plugin(house: House) -> None:
    """A dataclass with a field type that no schema can hold is named as such."""
    house.source.write_text(
        house.source.read_text().replace("top_k: int = 1", "top_k: 'typing.Literal[1]' = 1")
        + "\nimport typing\n"
    )
    (line,) = make_plan(["method=dense,moe"]).left_out
    assert line.startswith("method 'moe'")
    assert "its settings cannot be typed" in line


def test_hydra_composes_once_per_combination_of_choices(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Plain values cost no composition: 2 x 2 choices compose as often for 2 seeds as for 200."""
    calls: list[object] = []
    hydra_compose = compose.compose
    monkeypatch.setattr(
        compose, "compose", lambda *a, **k: (calls.append(a), hydra_compose(*a, **k))[1]
    )
    choices = ("method=moe,dense", "task=digits,text")
    assert len(make_plan([*choices, "seed=range(2)"]).trials) == 8
    few = len(calls)
    assert len(make_plan([*choices, "seed=range(200)"]).trials) == 800
    assert len(calls) - few == few
    assert few <= 4 + 3  # once per combination, and again for each plugin not known before


def test_retries_are_collected(house: House) -> None:
    """retry=failed,invalid asks for both, and plans each trial once."""
    plan = make_plan(["method=moe", "retry=failed,invalid"])
    assert plan.retries == {"failed", "invalid"}
    assert len(plan.trials) == 2


def test_planning_writes_nothing(house: House) -> None:
    """No folder appears before a trial runs."""
    make_plan(["method=moe"])
    assert not only().folder.exists()
    assert not (house.conf.parents[1] / "results").exists()
