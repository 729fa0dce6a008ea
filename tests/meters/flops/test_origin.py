"""Tags, namespace and name of a plugin's own op decide nothing about its cost."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from bench.meters.flops.counter import count
from bench.meters.flops.formulas.table import FORMULAS, grouped_mm
from bench.meters.flops.origin import is_own
from bench.meters.flops.rules import rule_of

r = torch.randn
X = r(4, 4)


@pytest.fixture
def define() -> Iterator[Callable[..., Any]]:
    """`define(name, schema, tags)`: an op whose kernel multiplies its argument by itself."""
    libraries: list[torch.library.Library] = []

    def made(name: str, tags: Any = ()) -> Any:
        namespace, short = name.split("::")
        library = torch.library.Library(namespace, "FRAGMENT")
        libraries.append(library)
        # An overload: the op of this name is there already where a test imported transformers.
        library.define(f"{short}.plugin(Tensor x) -> Tensor", tags=tags)
        library.impl(f"{short}.plugin", lambda x: x @ x, "CPU")
        return getattr(getattr(torch.ops, namespace), short)

    yield made
    for library in libraries:
        library._destroy()


@pytest.mark.parametrize(
    ("name", "tags"),
    [
        ("condbenchorigin::plain", ()),
        ("condbenchorigin::activation", (torch.Tag.pointwise,)),
        ("condbenchorigin::view", (torch.Tag.view_copy,)),
        ("aten::smooth_relu", (torch.Tag.pointwise,)),
        ("aten::clone_copy", ()),  # stem of an op that is declared free
        ("aten::empty_like_out", ()),  # of one that does no work
        ("profiler::mark", ()),  # in a namespace that only marks ranges
        ("c10d::broadcast_rows", ()),
        ("condbenchorigin::known", ()),  # the name of an op that has a formula
        ("torch_attn::_varlen_attn_extra", ()),
        ("quantized::linear_relu_dynamic_fast", ()),
    ],
)
def test_no_name_and_no_tag_makes_a_plugins_op_free(
    name: str, tags: Any, define: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it claims to be, the op is flagged until the plugin states its cost."""
    # An op no library registers: `transformers::grouped_mm_fallback` exists once imported.
    monkeypatch.setitem(cast("dict[str, Any]", FORMULAS), "condbenchorigin::known", grouped_mm)
    op = define(name, tags)
    found = count(op, X)
    assert found.ops_without_formula == {name: 1}
    assert (found.total, found.pointwise_elems) == (0, 0)


def test_custom_ops_of_a_plugin_are_its_own() -> None:
    """`torch.library.custom_op` registers on its behalf, in any namespace."""

    @torch.library.custom_op("aten::condbench_double", mutates_args=(), tags=(torch.Tag.pointwise,))
    def double(x: Tensor) -> Tensor:
        return x @ x

    assert count(double, X).ops_without_formula == {"aten::condbench_double": 1}
    assert not is_own(torch.ops.aten.condbench_double.default)


def test_a_kernel_that_a_plugin_replaced_is_not_torchs_op() -> None:
    """An activation that multiplies matrices is flagged, also where it was counted before."""
    assert count(torch.erfinv, X).complete
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns about the replacement
        library = torch.library.Library("aten", "IMPL")
        library.impl("erfinv", lambda x: x @ x, "CPU")
    try:
        assert count(torch.erfinv, X).ops_without_formula == {"aten::erfinv": 1}
    finally:
        library._destroy()
    assert count(torch.erfinv, X).complete


def test_shapes_that_a_plugin_adds_change_nothing() -> None:
    """A fake kernel computes shapes; compilers need it, and counts do not."""
    with torch.library._scoped_library("aten", "IMPL") as library:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            library.impl("erfinv", lambda x: x.new_empty(x.shape), "Meta")
        assert count(torch.erfinv, X, strict=True).pointwise_elems == 16


def test_every_op_of_torch_is_torchs_own() -> None:
    """No op that has a formula, or is declared free, is taken for a plugin's."""
    foreign = []
    for full in torch._C._dispatch_get_all_op_names():
        name, _, overload = full.partition(".")
        namespace, _, short = name.partition("::")
        if namespace not in ("aten", "quantized", "prims", "profiler", "c10d", "_c10d_functional"):
            continue
        func = getattr(getattr(getattr(torch.ops, namespace), short), overload or "default")
        is_listed = rule_of(func).kind != "without_formula"
        if not is_listed and not is_own(func) and not short.startswith("condbench"):
            foreign.append(full)
    assert foreign == []


def hides_a_product(x: Tensor) -> Tensor:
    """A product that no dispatched operation computes."""
    return torch.from_numpy(x.numpy() @ x.numpy())


def write_product(x: Tensor) -> None:
    """The same in place."""
    x.copy_(hides_a_product(x))


CLAIMS = {
    "a view": ("word(Tensor(a) x) -> Tensor(a)", lambda op: op(X)),
    "nothing returned": ("word(Tensor(a!) x) -> ()", lambda op: op(X.clone())),
    "numbers only": ("word(Tensor x) -> float", lambda op: op(X)),
    "a list": ("word(Tensor x) -> Tensor[]", lambda op: op(X)),
    "an optional": ("word(Tensor? x) -> Tensor", lambda op: op(X)),
}
KERNELS: dict[str, Callable[[Tensor], Any]] = {
    "a view": hides_a_product,
    "nothing returned": write_product,
    "numbers only": lambda x: float(hides_a_product(x).sum()),
    "a list": lambda x: [hides_a_product(x)],
    "an optional": hides_a_product,
}


@pytest.mark.parametrize("claim", CLAIMS)
def test_no_schema_makes_a_plugins_op_free(claim: str) -> None:
    """An alias, a mutation, a number or a list: no statement about the result counts."""
    schema, call = CLAIMS[claim]
    library = torch.library.Library("condbenchword", "FRAGMENT")
    try:
        library.define(schema)
        library.impl("word", KERNELS[claim], "CPU")
        with torch.inference_mode(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch checks what a kernel returns
            found = count(lambda: call(torch.ops.condbenchword.word))
        assert found.ops_without_formula == {"condbenchword::word": 1}
    finally:
        library._destroy()


@pytest.mark.parametrize("key", ["CPU", "AutogradCPU", "CompositeImplicitAutograd"])
def test_a_kernel_of_a_plugin_for_torchs_own_op_is_flagged(key: str) -> None:
    """`hardswish` of torch is one thing; with a product in its place it is another."""
    library = torch.library.Library("aten", "IMPL")
    try:
        with torch.inference_mode(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns that a kernel is overridden
            library.impl("hardswish", hides_a_product, key)
            found = count(lambda: torch.nn.functional.hardswish(X))
        assert found.ops_without_formula == {"aten::hardswish": 1}
    finally:
        library._destroy()


def test_a_formula_registered_with_torch_is_not_believed() -> None:
    """Torch's own registry takes any function: 0 FLOPs for a product, and the op is flagged."""
    from torch.utils import flop_counter

    library = torch.library.Library("condbenchword", "FRAGMENT")
    before = dict(flop_counter.flop_registry)
    try:
        library.define("formula(Tensor x) -> Tensor")
        library.impl("formula", hides_a_product, "CPU")
        op = torch.ops.condbenchword.formula
        flop_counter.register_flop_formula(op)(lambda *arguments, **keywords: 0)
        assert count(lambda: op(X)).ops_without_formula == {"condbenchword::formula": 1}
    finally:
        flop_counter.flop_registry.clear()
        flop_counter.flop_registry.update(before)
        library._destroy()
