"""What all models share: every kind of change is seen and named, and ordinary use is none."""

from __future__ import annotations

import gc
import os
import random
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bench.meters.shared.settings import GLOBAL_HOOKS
from bench.meters.shared.state import SharedState, SharedStateChanged, in_words, settings_kept
from bench.meters.time import stopwatch
from methods.trunk.feedforward import FeedForward


def slow(*given: Any, **named: Any) -> Any:
    """Stands in for anything."""
    time.sleep(0.0003)


def watch(frame: object, event: str, argument: object) -> None:
    """A profiler that keeps nothing."""


class Mode(torch.overrides.TorchFunctionMode):
    """A mode that changes nothing and takes time."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


def _hook_everything() -> None:
    KEPT.append(nn.modules.module.register_module_forward_hook(lambda *given: None))


def _override_a_kernel() -> None:
    library = torch.library.Library("aten", "IMPL")
    with warnings.catch_warnings(action="ignore"):  # torch warns of it once
        library.impl("cosh", slow, "CPU")
    KEPT.append(library)


def _schedule(policy: int) -> None:
    os.sched_setscheduler(0, policy, os.sched_param(0))


KEPT: list[Any] = []  # a library or a handle that is collected takes its change back
SETTINGS: dict[str, tuple[Callable[[], object], str]] = {
    "threads": (lambda: torch.set_num_threads(torch.get_num_threads() + 1), "get_num_threads"),
    "matmul precision": (lambda: torch.set_float32_matmul_precision("medium"), "matmul_precision"),
    "default dtype": (lambda: torch.set_default_dtype(torch.float64), "get_default_dtype"),
    "default device": (lambda: torch.set_default_device("meta"), "torch.get_default_device()"),
    "autocast": (lambda: torch.set_autocast_enabled("cpu", True), "autocast on the CPU"),
    "deterministic": (lambda: torch.use_deterministic_algorithms(True), "deterministic"),
    "cudnn benchmark": (lambda: setattr(torch.backends.cudnn, "benchmark", True), "benchmark"),
    "no oneDNN": (lambda: torch._C._set_mkldnn_enabled(False), "mkldnn_enabled"),
    "attention": (lambda: torch.backends.cuda.enable_flash_sdp(False), "flash_sdp"),
    "TF32": (lambda: setattr(torch.backends.mkldnn, "fp32_precision", "bf16"), "fp32_precision"),
    "RNG": (lambda: torch.manual_seed(7), "torch.initial_seed(): "),
    "no gradients": (lambda: torch.set_grad_enabled(False), "is_grad_enabled(): True before"),
    "anomalies": (lambda: torch.autograd.set_detect_anomaly(True), "is_anomaly_enabled"),
    "subnormal numbers": (lambda: torch.set_flush_denormal(True), "flush_denormal"),
    "variable": (lambda: os.environ.update(OMP_WAIT_POLICY="active"), "OMP_WAIT_POLICY: not set"),
    "hook of all modules": (_hook_everything, "hooks of all modules"),
    "mode": (Mode().__enter__, "modes that see torch's functions: 0 before, 1 now"),
    "tracing": (lambda: sys.setprofile(watch), "sys.getprofile(): [] before, ['watch'] now"),
    "garbage": (lambda: gc.set_threshold(1), "gc.get_threshold()"),
    "fast path": (lambda: torch.backends.mha.set_fastpath_enabled(False), "get_fastpath_enabled()"),
    "scheduling": (lambda: _schedule(os.SCHED_BATCH), "scheduling of this process"),
    "cores": (lambda: os.sched_setaffinity(0, [min(os.sched_getaffinity(0))]), "cores"),
}
OWNERS = {
    "a layer's forward": (nn.Linear, "forward"),
    "a method that the class inherits": (nn.GELU, "__call__"),
    "an operator of tensors": (torch.Tensor, "__matmul__"),
    "a function of a module": (F, "gelu"),
    "torch's own": (torch, "softmax"),
    "a class": (nn, "LayerNorm"),
    "a built-in function": (torch._C._nn, "linear"),
    "a layer of the dense model": (FeedForward, "forward"),
    "the clock": (time, "perf_counter"),
    "a meter": (stopwatch, "stopwatch_for"),
}


@pytest.fixture
def restored() -> Iterator[None]:
    """Every setting as it was; random states too."""
    before = (
        *(torch.get_num_threads(), torch.get_float32_matmul_precision(), torch.get_rng_state()),
        *(os.environ.copy(), gc.get_threshold(), os.sched_getaffinity(0)),
    )
    yield
    threads, precision, state, environment, threshold, cores = before
    sys.setprofile(None)
    torch.set_num_threads(threads)
    torch.backends.mkldnn.fp32_precision = "none"
    torch.set_float32_matmul_precision(precision)
    torch.set_default_dtype(torch.float32)
    torch.set_default_device(None)
    torch.set_autocast_enabled("cpu", False)
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.benchmark = False
    torch._C._set_mkldnn_enabled(True)
    torch.backends.cuda.enable_flash_sdp(True)
    torch.set_grad_enabled(True)
    torch.autograd.set_detect_anomaly(False)
    torch.set_flush_denormal(False)
    torch.set_rng_state(state)
    os.environ.clear()
    os.environ.update(environment)
    for name in GLOBAL_HOOKS:
        vars(nn.modules.module)[name].clear()
    while torch._C._len_torch_function_stack():
        torch.overrides._pop_mode()
    KEPT.clear()
    torch.backends.mha.set_fastpath_enabled(True)
    _schedule(os.SCHED_OTHER)
    gc.set_threshold(*threshold)
    os.sched_setaffinity(0, cores)


@pytest.mark.usefixtures("restored")
@pytest.mark.parametrize("name", SETTINGS)
def test_a_changed_setting_is_named(name: str) -> None:
    """With its value before and now, in the form that a programmer would look for."""
    change, named = SETTINGS[name]
    stated = "build changed what the dense model"
    with pytest.raises(SharedStateChanged, match=stated) as raised, settings_kept("build"):
        change()
    assert named in str(raised.value)


@pytest.mark.parametrize("name", OWNERS)
def test_a_replaced_function_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set in a module or a class, or into a class that inherited it."""
    owner, attribute = OWNERS[name]
    before = SharedState(["methods"])
    with monkeypatch.context() as patch:
        patch.setattr(owner, attribute, slow, raising=False)
        changes = before.changes()
    assert len(changes) == 1
    assert f"{owner.__name__.rpartition('.')[2]}.{attribute} was replaced" in changes[0]
    assert before.changes() == []


def test_new_code_inside_an_old_function_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The object stays the same, what it does is another thing."""
    before = SharedState()
    with monkeypatch.context() as patch:
        patch.setattr(nn.Linear.forward, "__code__", slow.__code__)
        assert before.changes() == ["torch.nn.modules.linear.Linear.forward was replaced"]


@pytest.mark.usefixtures("restored")
def test_a_kernel_of_torch_that_is_overridden_is_named() -> None:
    """Through torch.library every call of an operation goes elsewhere."""
    before = SharedState()
    _override_a_kernel()
    assert before.changes() == ["kernel of aten/cosh/CPU was replaced"]


def test_what_an_ordinary_method_does_changes_nothing() -> None:
    """Layers, random numbers, casts, transforms, operations of its own, and variables of others."""
    before = SharedState(["methods"])
    layer, x = nn.Sequential(nn.Linear(3, 3), nn.Dropout()), torch.randn(2, 3)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(1)
        layer(x)
    random.seed(3)
    nn.utils.parametrizations.weight_norm(layer[0])
    handle = layer.register_forward_hook(lambda *given: None)
    torch.func.vmap(layer[0])(x).sum().backward()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    with suppress(RuntimeError):
        torch.library.define("condbench_test::plain", "(Tensor x) -> Tensor")
    handle.remove()
    del os.environ["TOKENIZERS_PARALLELISM"]
    assert before.changes() == []


def test_a_message_names_three_changes() -> None:
    """Five in one sentence."""
    said = in_words("build", list("abcde"))
    assert said == "build changed what the dense model runs under too: a; b; c; and 2 more"
