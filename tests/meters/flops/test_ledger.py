"""The ledger beside its numbers: it changes nothing, flags ops without a formula, cleans up."""

from __future__ import annotations

import _thread
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._higher_order_ops.cond import cond_op
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode_stack

from bench import routing
from bench.meters.flops.counter import MeterStateError, MissingFormulaError, count, is_active
from bench.meters.flops.rules import rule_of

r = torch.randn
MODES = [torch.enable_grad, torch.no_grad, torch.inference_mode]
Mode = Callable[[], AbstractContextManager[Any]]


@pytest.fixture(scope="module")
def library() -> Iterator[torch.library.Library]:
    """Custom ops of a third party: one that multiplies, and a composite one."""
    made = torch.library.Library("condbenchtest", "DEF")
    made.define("product(Tensor a, Tensor b) -> Tensor")
    made.impl("product", lambda a, b: a @ b, "CPU")
    made.define("inside(Tensor a, Tensor b) -> Tensor")
    made.impl("inside", lambda a, b: a @ b, "CompositeImplicitAutograd")
    yield made
    made._destroy()


@pytest.fixture
def no_formulas(monkeypatch: pytest.MonkeyPatch) -> None:
    """Formulas registered in a test are removed after it."""
    monkeypatch.setattr(sys.modules["bench.routing.formulas"], "_formulas", {})


linear, gru, lstm = nn.Linear(64, 8), nn.GRU(64, 8), nn.LSTM(64, 8)
LAYERS: dict[str, Callable[[Tensor], Tensor]] = {
    "encoder": nn.TransformerEncoderLayer(64, 4, 128, batch_first=True),  # with dropout
    "fused encoder": nn.TransformerEncoderLayer(64, 4, 128, batch_first=True).eval(),
    "strided linear": lambda x: linear(x.transpose(0, 1)),
    "gru": lambda x: gru(x)[0],
    "lstm": lambda x: lstm(x)[0],
    "attention": lambda x: F.scaled_dot_product_attention(x, x, x, dropout_p=0.2),
    "bilinear": lambda x: F.bilinear(x[0], x[1], x.new_ones(5, 64, 64)),
    "distances": lambda x: torch.cdist(x, x),
    "einsum": lambda x: torch.einsum("btd,bsd->bts", x, x),
    "gumbel routing": lambda x: F.gumbel_softmax(x, hard=True)[x.sum(-1) > 0],
    "norms": lambda x: F.rms_norm(x, (64,)) + F.layer_norm(x, (64,)),
}


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.__name__)
@pytest.mark.parametrize("name", LAYERS)
def test_counting_changes_neither_results_nor_random_numbers(
    name: str, mode: Mode, autocast: bool
) -> None:
    """Output bits, strides, dtype, gradient state and the generator are the same with a count."""
    x = r(2, 16, 64)
    with mode(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        torch.manual_seed(1)
        plain, state = LAYERS[name](x), torch.get_rng_state()
        torch.manual_seed(1)
        counted = count(LAYERS[name], x, strict=True).result
    assert torch.equal(plain, counted)
    assert (plain.dtype, plain.stride()) == (counted.dtype, counted.stride())
    assert plain.requires_grad == counted.requires_grad
    assert torch.equal(state, torch.get_rng_state())


def test_nothing_is_left_after_an_exception() -> None:
    """A model that raises leaves no mode, patch or active count behind."""
    start, submit = threading.Thread.start, ThreadPoolExecutor.submit
    bare = _thread.start_new_thread
    kernel = cond_op.py_kernels[torch._C.DispatchKey.Autograd]

    def fails() -> None:
        assert is_active()
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        count(fails)
    assert not is_active()
    assert _get_current_dispatch_mode_stack() == []
    assert (start, submit) == (threading.Thread.start, ThreadPoolExecutor.submit)
    assert bare is _thread.start_new_thread
    assert cond_op.py_kernels[torch._C.DispatchKey.Autograd] is kernel


def test_a_count_raises_where_it_would_be_wrong() -> None:
    """Under another mode, another count or a profiler it raises an error that names it."""

    class Other(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore
            return func(*args, **(kwargs or {}))

    with Other(), pytest.raises(MeterStateError, match="Other"):
        count(r, 3)
    with pytest.raises(MeterStateError, match="Ledger"):
        count(count, r, 3)
    with torch.profiler.profile(acc_events=True), pytest.raises(MeterStateError, match="profiler"):
        count(r, 3)


def test_a_tracer_changes_no_count() -> None:
    """Coverage and debuggers only slow a count down."""
    before = sys.gettrace()
    sys.settrace(lambda *_: None)
    try:
        assert count(torch.mm, r(3, 4), r(4, 5)).macs == 60
    finally:
        sys.settrace(before)


def test_an_op_without_a_formula_is_flagged_or_raises(
    library: torch.library.Library, no_formulas: None
) -> None:
    """A custom op counts nothing and is flagged; strict counting raises and names the remedy."""
    op = torch.ops.condbenchtest.product
    counted = count(lambda: op(op(r(3, 4), r(4, 4)), r(4, 5)))
    assert (counted.complete, counted.ops_without_formula) == (False, {"condbenchtest::product": 2})
    with pytest.raises(MissingFormulaError, match=r"condbenchtest::product.*register_formula"):
        count(op, r(3, 4), r(4, 5), strict=True)
    with torch.library._scoped_library("condbenchtest", "FRAGMENT"):
        assert count(torch.ops.condbenchtest.inside, r(3, 4), r(4, 5), strict=True).macs == 60


def test_a_registered_formula_makes_it_exact(
    library: torch.library.Library, no_formulas: None
) -> None:
    """A plugin's formula counts its op, and the count lists these FLOPs by plugin."""
    op = torch.ops.condbenchtest.product
    routing.register_formula(op, lambda args, kwargs, output: 2 * args[0].numel() * output.shape[1])
    with routing.region("expert"):
        counted = count(op, r(3, 4), r(4, 5), strict=True)
    assert (counted.total, counted.by_region) == (120, {"expert": 120})
    assert counted.by_plugin == {"condbenchtest::product": 120}
    assert count(torch.mm, r(3, 4), r(4, 5)).by_plugin == {}


@pytest.mark.parametrize("name", ["mm", "relu", "sum", "view", "linear"])
def test_a_formula_for_an_op_that_the_meter_counts_is_an_error(
    name: str, no_formulas: None
) -> None:
    """A plugin cannot declare products free, or any other op that the meter handles."""
    routing.register_formula(getattr(torch.ops.aten, name), lambda args, kwargs, output: 0)

    def model() -> Tensor:
        return F.linear(torch.mm(r(3, 4), r(4, 4)).relu(), r(5, 4)).view(-1).sum()

    with torch.inference_mode(), pytest.raises(ValueError, match=f"formula for aten::{name}"):
        count(model)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
def test_a_plugin_may_complete_a_formula_of_ours(no_formulas: None) -> None:
    """Products of nested tensors are flagged, unless a plugin registers their cost."""
    nested = torch.nested.nested_tensor([r(3, 8), r(5, 8)])
    right = torch.nested.nested_tensor([r(8, 2), r(8, 2)])
    assert not count(torch.bmm, nested, right).complete
    routing.register_formula(torch.ops.aten.bmm, lambda args, kwargs, output: 2 * 8 * 8 * 2)
    assert count(torch.bmm, nested, right, strict=True).total == 256
    with pytest.raises(ValueError, match="formula for aten::bmm"):
        count(torch.bmm, r(2, 3, 4), r(2, 4, 5))


@pytest.mark.parametrize(
    ("op", "formula"), [("condbenchtest::product", max), (torch.ops.aten.mm, 7), (7, max)]
)
def test_a_formula_needs_an_op_and_a_function(op: Any, formula: Any, no_formulas: None) -> None:
    """A name in place of an op would silently never apply."""
    with pytest.raises(TypeError, match=r"belongs to an op|cannot be called"):
        routing.register_formula(op, formula)


def test_a_formula_must_return_a_whole_number(
    library: torch.library.Library, no_formulas: None
) -> None:
    """A formula that returns half a FLOP raises and names the op."""
    op = torch.ops.condbenchtest.product
    routing.register_formula(op, lambda args, kwargs, output: 1.5)
    with pytest.raises(TypeError, match=r"condbenchtest::product returned 1.5"):
        count(op, r(3, 4), r(4, 5))


def test_a_formula_cannot_be_negative(library: torch.library.Library, no_formulas: None) -> None:
    """A negative number of FLOPs would hide other ops' work: it raises and names the op."""
    op = torch.ops.condbenchtest.product
    routing.register_formula(op, lambda args, kwargs, output: -7)
    with pytest.raises(ValueError, match=r"condbenchtest::product returned -7"):
        count(op, r(3, 4), r(4, 5))


def test_no_op_that_multiplies_matrices_is_declared_free() -> None:
    """In any torch, an op named after a product is counted, taken apart or flagged."""
    products = {"mm", "bmm", "addmm", "baddbmm", "addbmm", "mv", "addmv", "dot", "vdot", "matmul"}
    products |= {"linear", "convolution", "conv2d", "conv3d", "attention", "einsum"}
    products |= {"lstm", "gru", "rnn"}
    moves_weights = {"mkldnn_reorder_conv2d_weight", "mkldnn_reorder_conv3d_weight"}
    moves_weights |= {"_cudnn_rnn_flatten_weight"}
    found = 0
    for full in torch._C._dispatch_get_all_op_names():
        name, _, overload = full.partition(".")
        namespace, _, short = name.partition("::")
        named = products & set(short.split("_")) and "cell" not in short
        if namespace != "aten" or not named or short in moves_weights:
            continue
        packet = getattr(torch.ops.aten, short)
        rule = rule_of(getattr(packet, overload or "default"))
        assert rule.kind in ("formula", "composite", "without_formula"), full
        found += 1
    assert found > 50


def test_an_op_without_a_formula_in_another_thread_raises_too(
    library: torch.library.Library,
) -> None:
    """Strict counting raises in the caller for an op of a pool worker."""

    def model() -> None:
        with ThreadPoolExecutor(1) as pool:
            pool.submit(torch.ops.condbenchtest.product, r(3, 4), r(4, 5)).exception()

    with pytest.raises(MissingFormulaError, match="condbenchtest::product"):
        count(model, strict=True)
