"""What the ledger promises beside numbers: to change nothing, to know or say so, to clean up."""

from __future__ import annotations

import _thread
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from queue import Queue
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._higher_order_ops.cond import cond_op
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode_stack

from bench import routing
from bench.meters.energy.polling import Sample, ThreadPolling
from bench.meters.flops.counter import MeterStateError, MissingFormulaError, count, is_active
from bench.meters.flops.ledger import _rule

r = torch.randn
MODES = [torch.enable_grad, torch.no_grad, torch.inference_mode]
Mode = Callable[[], AbstractContextManager[Any]]


@pytest.fixture(scope="module")
def library() -> Iterator[torch.library.Library]:
    """Custom ops of a third party: one that multiplies, one that the mode cannot look into."""
    made = torch.library.Library("condbenchtest", "DEF")
    made.define("product(Tensor a, Tensor b) -> Tensor")
    made.impl("product", lambda a, b: a @ b, "CPU")
    made.define("inside(Tensor a, Tensor b) -> Tensor")
    made.impl("inside", lambda a, b: a @ b, "CompositeImplicitAutograd")
    yield made
    made._destroy()


@pytest.fixture
def no_formulas(monkeypatch: pytest.MonkeyPatch) -> None:
    """Formulas registered in the test are forgotten after it."""
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
    """A model that raises leaves no mode, no patch and no active count."""
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


def test_a_count_refuses_what_would_falsify_it() -> None:
    """Under another mode, another count or a profiler a count raises and says why."""

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


def test_an_unknown_op_is_flagged_or_refused(
    library: torch.library.Library, no_formulas: None
) -> None:
    """A custom op counts nothing and says so; strict counting raises and names the way out."""
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
    """A plugin's formula counts its op, and the count says that it is the plugin's word."""
    op = torch.ops.condbenchtest.product
    routing.register_formula(op, lambda args, kwargs, output: 2 * args[0].numel() * output.shape[1])
    with routing.region("expert"):
        counted = count(op, r(3, 4), r(4, 5), strict=True)
    assert (counted.total, counted.by_region) == (120, {"expert": 120})
    assert counted.by_plugin == {"condbenchtest::product": 120}
    assert count(torch.mm, r(3, 4), r(4, 5)).by_plugin == {}


@pytest.mark.parametrize("name", ["mm", "relu", "sum", "view", "linear"])
def test_a_formula_for_what_is_known_is_refused(name: str, no_formulas: None) -> None:
    """A plugin that declares products, or anything else that is counted, free, is found out."""
    routing.register_formula(getattr(torch.ops.aten, name), lambda args, kwargs, output: 0)

    def model() -> Tensor:
        return F.linear(torch.mm(r(3, 4), r(4, 4)).relu(), r(5, 4)).view(-1).sum()

    with torch.inference_mode(), pytest.raises(ValueError, match=f"formula for aten::{name}"):
        count(model)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
def test_a_plugin_may_tell_what_our_formula_cannot(no_formulas: None) -> None:
    """Products of nested tensors are flagged, unless somebody says what they cost."""
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
    """A name in place of an op would never be found, silently."""
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


def test_a_formula_cannot_take_work_back(library: torch.library.Library, no_formulas: None) -> None:
    """A negative number of FLOPs would hide what other ops did: it raises and names the op."""
    op = torch.ops.condbenchtest.product
    routing.register_formula(op, lambda args, kwargs, output: -7)
    with pytest.raises(ValueError, match=r"condbenchtest::product returned -7"):
        count(op, r(3, 4), r(4, 5))


def test_no_op_that_multiplies_matrices_is_declared_free() -> None:
    """Of any torch, an op named after a product is counted, looked into or flagged."""
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
        rule = _rule(getattr(packet, overload or "default"))
        assert rule.kind in ("formula", "composite", "without_formula"), full
        found += 1
    assert found > 50


def product() -> Tensor:
    return r(3, 4) @ r(4, 5)


def test_work_in_started_threads_is_counted_with_its_region() -> None:
    """Threads and pool workers started inside a count book where they were sent from."""

    def model() -> None:
        with routing.region("expert"):
            thread = threading.Thread(target=product)
            thread.start()
        thread.join()
        with ThreadPoolExecutor(2) as pool, routing.region("router"):
            list(pool.map(lambda _: product(), range(3)))

    counted = count(model, strict=True)
    assert counted.by_region == {"expert": 120, "router": 3 * 120}


def test_work_sent_to_an_older_pool_is_counted_once() -> None:
    """A pool whose workers existed before the count books what the count sent it, and no more."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(product).result()
        counted = count(lambda: pool.submit(product).result(), strict=True)
        pool.submit(product).result()
    assert counted.macs == 60


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="Linux tells CPU times")
def test_work_of_a_thread_that_was_there_before_is_flagged() -> None:
    """An older thread that works through a queue cannot be counted, and the count says so."""
    orders: Queue[bool] = Queue()
    answers: Queue[Tensor] = Queue()

    def work() -> None:
        while orders.get():
            deadline = time.thread_time() + 0.05  # enough CPU time to be seen on any machine
            while time.thread_time() < deadline:
                product()
            answers.put(product())

    thread = threading.Thread(target=work, name="older", daemon=True)
    thread.start()

    def model() -> Tensor:
        orders.put(True)
        return answers.get()

    counted = count(model)
    orders.put(False)
    thread.join()
    assert counted.ops_without_formula == {"thread::older": 1}


def test_a_thread_that_only_looks_around_is_no_work() -> None:
    """A poller that wakes every 20 ms does not make a count of tenths of a second incomplete."""
    stop = threading.Event()

    def poll() -> None:
        while not stop.wait(0.02):
            pass

    thread = threading.Thread(target=poll)
    thread.start()
    counted = count(time.sleep, 0.5)
    stop.set()
    thread.join()
    assert counted.complete


def test_a_thread_without_an_object_is_counted_too() -> None:
    """`_thread.start_new_thread` is a door of its own."""
    answers: Queue[Tensor] = Queue()

    def model() -> Tensor:
        _thread.start_new_thread(lambda: answers.put(product()), ())
        return answers.get()

    assert count(model, strict=True).macs == 60


def test_work_that_is_not_finished_is_flagged() -> None:
    """A thread that outlives the count makes it incomplete."""
    release = threading.Event()
    counted = count(lambda: threading.Thread(target=release.wait, daemon=True).start())
    release.set()
    assert counted.ops_without_formula == {"thread::unfinished": 1}


def test_an_unknown_op_in_another_thread_is_refused_too(library: torch.library.Library) -> None:
    """Strict counting raises in the caller for what a pool worker met."""

    def model() -> None:
        with ThreadPoolExecutor(1) as pool:
            pool.submit(torch.ops.condbenchtest.product, r(3, 4), r(4, 5)).exception()

    with pytest.raises(MissingFormulaError, match="condbenchtest::product"):
        count(model, strict=True)


@pytest.mark.filterwarnings(
    "ignore:.torch.jit:DeprecationWarning", "ignore:.torch.jit:FutureWarning"
)
def test_scripted_code_is_seen() -> None:
    """TorchScript's interpreter dispatches ops like everybody else, also once it is optimised."""
    model, x = torch.jit.script(nn.Linear(4, 5)), r(3, 4)
    assert [count(model, x, strict=True).macs for _ in range(3)] == [60, 60, 60]


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_operators_that_torchscript_runs_itself_are_flagged() -> None:
    """An optimised frozen convolution dispatches nothing: 0 FLOPs, and the count says why."""
    scripted = torch.jit.script(nn.Conv2d(4, 6, 3).eval())
    frozen = torch.jit.optimize_for_inference(torch.jit.freeze(scripted))
    images = r(1, 4, 8, 8)
    wrapped = nn.Sequential(frozen)
    with torch.no_grad():
        assert "prim::mkldnn_convolution" in count(frozen, images).ops_without_formula
        assert "prim::mkldnn_convolution" in count(lambda: wrapped(images)).ops_without_formula
        with pytest.raises(MissingFormulaError, match="before freezing"):
            count(frozen, images, strict=True)
        assert count(scripted, images, strict=True).macs == 6 * 36 * 36


def test_a_meter_that_reads_counters_beside_the_work_makes_no_count_incomplete():
    """Polling a GPU's power costs CPU time and no FLOPs, however slow the driver answers."""

    def slow_driver() -> Sample:
        end_s = time.thread_time() + 0.002
        while time.thread_time() < end_s:
            pass
        return Sample(time.monotonic(), 0, 0.0)

    polling = ThreadPolling(slow_driver, 0.004)
    counted = count(lambda: time.sleep(0.1))
    polling.stop()
    assert counted.complete, counted.ops_without_formula
