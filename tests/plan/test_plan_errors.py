"""Bad input is answered with one message: what is wrong, where, and what could stand there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from bench.plan.matrix import PlanError, make_plan
from bench.records import environment
from tests.fakes.odd_files import at_most

if TYPE_CHECKING:
    from conftest import House


def refused(*overrides: str) -> str:
    """The message of a plan that cannot be made."""
    with pytest.raises(PlanError) as caught:
        make_plan(overrides)
    return str(caught.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "method=mow",
            "command line: unknown method 'mow': did you mean 'moe'? choices: dense, moe",
        ),
        (
            "task=digit",
            "command line: unknown task 'digit': did you mean 'digits'? choices: digits, text",
        ),
        (
            "measure=fast",
            "command line: unknown measure 'fast': choices: map, publish, quick, standard",
        ),
        (
            "experiment=quickstrat",
            "command line: unknown experiment 'quickstrat': did you mean 'quickstart'?",
        ),
        (
            "method.num_expert=4",
            "command line, method.num_expert=4: unknown key 'num_expert' in method: did you mean "
            "'num_experts'? choices: hidden, num_experts, router, top_k, widths",
        ),
        (
            "trian.steps=4",
            "command line, trian.steps=4: unknown key 'trian': did you mean 'train'?",
        ),
        ("sed=4", "command line, sed=4: unknown key 'sed': did you mean 'seed'? choices: "),
        (
            "method.num_experts=four",
            "command line, method.num_experts=four: method.num_experts: Value 'four' of type 'str' "
            "could not be converted to Integer",
        ),
        ("seed=1.5", "command line, seed=1.5: seed: Value '1.5' of type 'float' could not be"),
        ("results=null", "command line, results=None: results: field 'results' is not Optional"),
        ("train=3", "command line, train=3: train is a block: set its keys one by one"),
        ("seed.x=3", "command line, seed.x=3: seed is one value and has no keys"),
        ("measure.rounds=0", "measure.rounds=0: must be at least 1"),
        ("gpu.kind=tpu", "gpu.kind='tpu': choose one of 'cpu', 'one', 'ddp'"),
        ("train.lr=inf", "train.lr=inf: must be above 0, and finite"),
        ("seed", "command line: cannot read 'seed' (missing EQUAL at '<EOF>'): write KEY=VALUE"),
        ("seed=[1", "command line: cannot read 'seed=[1'"),
        (
            "seed=interval(0,1)",
            "command line: seed=interval(0,1): a matrix needs values, not an interval",
        ),
        ("name=../../etc", "name='../../etc': use letters, digits and ._-+=, only"),
        ("name=checkpoints", "name='checkpoints': use letters"),
        ("~train", "command line: ~train: nothing can be taken out; give another value"),
        ("hydra.job.name=x", "command line, hydra.job.name=x: unknown key 'hydra': choices: "),
        ("method=[moe]", "command line: method=['moe']: several are written a,b without brackets"),
        ("method=glob(x*)", "the sweep is empty: there is no trial to plan"),
        ("+sede=3", "command line: unknown setting 'sede': did you mean 'seed'? choices: "),
        ("+method.new=3", "method=moe: unknown setting 'new': choices: hidden, num_experts, "),
        ("method.num_experts=0", "method=moe: no expert"),
    ],
)
def test_the_command_line_is_answered_by_key_and_choices(
    house: House, override: str, message: str
) -> None:
    """What is wrong on the command line is said in one line with the way out."""
    said = refused("method=moe", override)
    assert said.startswith(message)
    assert "\n" not in said


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "measure:\n  roundz: 3\n",
            "conf/experiment/bad.yaml: unknown key 'roundz' in measure: did you mean 'rounds'?",
        ),
        (
            "measure:\n  rounds: many\n",
            "conf/experiment/bad.yaml: measure.rounds: Value 'many' of type 'str' could not",
        ),
        (
            "mesure:\n  rounds: 3\n",
            "conf/experiment/bad.yaml: unknown key 'mesure': did you mean 'measure'?",
        ),
        (
            "defaults:\n  - override /method: moe\nmethod:\n  num_expert: 3\n",
            "conf/experiment/bad.yaml: unknown key 'num_expert' in method: did you mean "
            "'num_experts'? choices: hidden, num_experts, router, top_k, widths (what only some",
        ),
        (
            "defaults:\n  - override /method: mow\n",
            "conf/experiment/bad.yaml: unknown method 'mow': did you mean 'moe'?",
        ),
        (
            "defaults:\n  - override /methud: moe\n",
            "conf/experiment/bad.yaml: Could not override 'methud'. No match in the defaults",
        ),
        (
            "hydra:\n  sweeper:\n    params:\n      method: moe,dnese\n",
            "conf/experiment/bad.yaml, hydra.sweeper.params: unknown method 'dnese': did you mean "
            "'dense'?",
        ),
        (
            "hydra:\n  sweeper:\n    params:\n      measure.roundz: 1,2\n",
            "conf/experiment/bad.yaml, hydra.sweeper.params, measure.roundz=1: unknown key "
            "'roundz' in measure: did you mean 'rounds'?",
        ),
        ("seed: ${nothing}\n", "command line: seed: Interpolation key 'nothing' not found"),
        ("defaults: 3\n", "conf/experiment/bad.yaml: Invalid defaults list in 'experiment/bad'"),
        ("defaults:\n  - bad\n", "conf/experiment/bad.yaml: maximum recursion depth exceeded"),
        (
            "hydra:\n  sweeper:\n    params:\n      method: [moe, dense]\n",
            "conf/experiment/bad.yaml, hydra.sweeper.params: method=['moe', 'dense']: several are "
            "written a,b without brackets",
        ),
        (
            "hydra:\n  sweeper:\n    params:\n      experiment: quickstart\n",
            "conf/experiment/bad.yaml, hydra.sweeper.params: an experiment cannot sweep",
        ),
        ("- a\n- b\n", "conf/experiment/bad.yaml: Cannot merge DictConfig with ListConfig"),
    ],
)
def test_an_experiment_file_is_answered_by_file_key_and_choices(
    house: House, text: str, message: str
) -> None:
    """What is wrong in an experiment file is said with the file's name."""
    house.experiment("bad", text)
    said = refused("experiment=bad")
    assert said.startswith(message)
    assert "\n" not in said


def test_broken_yaml_is_answered_by_file_and_line(house: House) -> None:
    """A file that is no YAML is named with the line where it stops making sense."""
    house.experiment("bad", "seed: 1\nmeasure: [1\ntask: x\n")
    said = refused("experiment=bad")
    assert "fakeconf/experiment/bad.yaml, line 4: not readable as YAML: expected ','" in said


BOMB = "a: &a0 [x]\n" + "".join(
    f"b{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 10)
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (BOMB, "more than 20,000 values once its aliases are written out"),
        ("task: &a [*a]\n", "an alias that contains itself"),
        ("name: " + "[" * 2000, "nested more than 50 deep"),
        ("name:\n" + "".join(" " * n + "a:\n" for n in range(1, 500)), "nested more than 50 deep"),
        ("name: " + "- " * 2000 + "a", "nested more than 50 deep"),
        ("# " + "x" * 300_000, "more than 200,000 characters"),
    ],
)
def test_a_file_beyond_the_limits_is_not_parsed(house: House, text: str, words: str) -> None:
    """A bomb of aliases stands for 10^9 values: refused at once, by the file's name."""
    house.experiment("bad", text)
    with at_most(30):
        message = refused("experiment=bad")
    assert words in message
    assert "conf/experiment/bad.yaml" in message


def test_a_secret_variable_is_no_setting(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of somebody else would copy it into every record; other variables are read."""
    monkeypatch.setenv("HF_TOKEN", "correct horse")
    monkeypatch.setenv("MY_NAME", "mine")
    house.experiment("bad", "wandb:\n  project: ${oc.env:HF_TOKEN}\n")
    message = refused("experiment=bad")
    assert "HF_TOKEN holds a secret" in message
    assert "correct horse" not in message
    house.experiment("good", "wandb:\n  project: ${oc.env:MY_NAME}\n")
    assert make_plan(["experiment=good"]).trials[0].config["wandb"]["project"] == "mine"


def test_aliases_within_the_limits_are_read(house: House) -> None:
    """A value that is named once and used twice."""
    house.experiment("good", "seed: &s 3\nmeasure:\n  rounds: *s\n")
    (trial, *_) = make_plan(["experiment=good"]).trials
    assert (trial.config["seed"], trial.config["measure"]["rounds"]) == (3, 3)


@pytest.mark.parametrize("value", ["[" * 5000, "x" * 100_000, "{a:" * 5000, "(" * 300, "\ud800"])
def test_an_override_beyond_the_limits_is_refused(house: House, value: str) -> None:
    """Depth and length of one argument; one line, without half of it quoted back."""
    with at_most(30):
        message = refused(f"name={value}")
    assert message.startswith("command line")
    assert len(message) < 1000


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ("range(0,1000000000)", "more than 10,000 values"),
        ("shuffle(range(0,1000000000))", "more than 10,000 values"),
        ("sort(range(0,1000000000),reverse=true)", "more than 10,000 values"),
        ("range(0,1e99)", "more than 10,000 values"),
        ("range(0,inf)", "more than 10,000 values"),
        ("range(0,1,1e-40)", "more than 10,000 values"),
        ("range(0,9,0)", "no such range"),
        ("range(0.0,9,0)", "no such range"),
        ("range(0,nan)", "no such range"),
        ("choice(" + ",".join(["1"] * 9999) + ")", "characters are no setting"),
        ("range(0,9999) train.steps=range(0,9999)", "the sweep has 99,980,001 cells"),
    ],
)
def test_a_sweep_without_end_is_refused(house: House, values: str, words: str) -> None:
    """A range is counted before it is written out, and cells before they are planned."""
    with at_most(30):
        message = refused(*f"seed={values}".split())
    assert words in message
    assert "\n" not in message


@pytest.mark.parametrize("byte", [b"\xff", b"\x00"])
def test_a_file_that_is_no_text_is_named(house: House, byte: bytes) -> None:
    """Bytes that are no UTF-8, or no YAML, are an error with the file's name."""
    (house.conf / "experiment" / "bad.yaml").write_bytes(b"# @package _global_\nname: " + byte)
    assert "experiment/bad.yaml" in refused("experiment=bad")


def test_a_gpu_that_is_not_there_is_named(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """gpu=one on a machine without a driver is refused before anything runs."""
    monkeypatch.setattr(environment, "gpus", list)
    assert refused("gpu=one") == "no NVIDIA GPU: NVML finds no driver (choose gpu=cpu)"


def test_a_forgotten_package_line_is_named(house: House) -> None:
    """An experiment without its first line would land in the wrong place; the message says so."""
    (house.conf / "experiment" / "bad.yaml").write_text("seed: 1\n")
    said = refused("experiment=bad")
    assert (
        "conf/experiment/bad.yaml: the file must begin with the line '# @package _global_'" in said
    )


@pytest.mark.parametrize("key", ["top_kk", "moe.top_kk", "dense.top_k", "nothing.top_k"])
def test_a_setting_that_no_chosen_method_has_is_refused(house: House, key: str) -> None:
    """Also where it is addressed to one of them, or to a method that is not chosen."""
    assert f"unknown key {key.rpartition('.')[2]!r}" in refused(
        "method=moe,dense", f"method.{key}=2"
    ) or f"method.{key}=2" in refused("method=moe,dense", f"method.{key}=2")


def test_a_setting_without_a_default_must_be_given(house: House) -> None:
    """A plugin's required setting is asked for by its key, and can be swept."""
    house.source.write_text(
        house.source.read_text().replace("num_experts: int = 8", "num_experts: int")
    )
    assert "no value for method.num_experts" in refused("method=moe")
    assert len(make_plan(["method=moe", "method.num_experts=2,4"]).trials) == 3


def test_a_variant_of_no_plugin_is_refused(house: House) -> None:
    """A method file that is not based on a plugin cannot be built, and says what to begin with."""
    (house.conf / "method").mkdir(exist_ok=True)
    (house.conf / "method" / "loose.yaml").write_text("num_experts: 2\n")
    assert "begin conf/method/NAME.yaml with" in refused("method=loose")


def test_a_task_without_its_data_is_left_out_by_name(house: House) -> None:
    """A task that cannot find its data is named with the cause; alone, nothing can be planned."""
    house.source.write_text(
        house.source.read_text().replace(
            'return f"data-{self.canvas}"', 'raise FileNotFoundError("no archive in ~/data")'
        )
    )
    assert "task 'digits'" in refused("task=digits")
    plan = make_plan(["task=digits,text"])
    assert [trial.labels.task for trial in plan.trials] == ["text"]
    assert "FileNotFoundError: no archive in ~/data" in plan.left_out[0]


def test_one_refused_value_of_a_sweep_leaves_the_rest(house: House) -> None:
    """A cell whose settings are refused is named by its values and left out; the others are."""
    plan = make_plan(["method=dense,moe", "task.canvas=8,16", "measure.rounds=0,2"])
    assert [trial.config["measure"]["rounds"] for trial in plan.trials] == [2, 2, 2, 2]
    # 2 methods x 2 canvases share one complaint, said once with the first of its cells
    assert plan.left_out == [
        "method=dense task.canvas=8 measure.rounds=0 (and 3 more): measure.rounds=0: must be at "
        "least 1"
    ]


def test_a_plugin_that_refuses_one_value_leaves_the_rest(house: House) -> None:
    """What the plugin's own check says is said with the value that it is about."""
    plan = make_plan(["method=moe", "method.num_experts=0,2"])
    assert plan.left_out == ["method.num_experts=0: method=moe: no expert"]
    assert [trial.labels.variant for trial in plan.trials] == ["", "num_experts=2"]


def test_a_sweep_of_nothing_but_refused_values_says_each(house: House) -> None:
    """With nothing left to plan the message has a line for each cause."""
    said = refused("method=moe", "method.num_experts=0,-1", "measure.rounds=0")
    assert said == "method.num_experts=0 (and 1 more): measure.rounds=0: must be at least 1"


def test_every_broken_plugin_of_an_empty_plan_is_named(house: House) -> None:
    """When nothing is left to plan, the message is why."""
    house.offer("method", one="no_such_module_here:One", two="no_such_module_here:Two")
    said = refused("method=one,two")
    assert "method 'one'" in said
    assert "method 'two'" in said
