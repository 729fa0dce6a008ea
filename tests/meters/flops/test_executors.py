"""Programs that run outside torch's dispatcher: what a mode cannot see is flagged by its name."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench.meters.flops import executors
from bench.meters.flops.counter import MissingFormulaError, count
from bench.meters.flops.executors import EXECUTORS, SCRIPTED

pytestmark = pytest.mark.filterwarnings(
    "ignore:.torch.jit:DeprecationWarning",
    "ignore:.torch.jit:FutureWarning",
    "ignore:torch.quantize_per_tensor:UserWarning",
    "ignore:.isinstance.treespec, LeafSpec.:FutureWarning",  # torch's own, while it exports
)

r = torch.randn
IMAGES = r(1, 4, 8, 8)


class TwoMethods(nn.Module):
    """A convolution behind `forward` and behind another exported method."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)

    @torch.jit.export
    def embed(self, x: Tensor) -> Tensor:
        return self.conv(x)


def optimised(module: nn.Module, keep: list[str] | None = None) -> Any:
    """The module as TorchScript, with oneDNN's operators in place of torch's."""
    frozen = torch.jit.freeze(torch.jit.script(module.eval()), preserved_attrs=keep)
    return torch.jit.optimize_for_inference(frozen, other_methods=keep)


def in_the_background(x: Tensor) -> Tensor:
    future = torch.jit.fork(torch.mm, x, x)
    return torch.jit.wait(future)


def test_scripted_code_is_counted() -> None:
    """TorchScript's interpreter dispatches its ops, also after it has optimised the graph."""
    model, x = torch.jit.script(nn.Linear(4, 5)), r(3, 4)
    assert [count(model, x, strict=True).macs for _ in range(3)] == [60, 60, 60]
    traced = torch.jit.trace(nn.Linear(4, 5), x)
    with torch.no_grad():
        assert [count(traced, x, strict=True).macs for _ in range(3)] == [60, 60, 60]
    assert count(torch.jit.script(gram), x, strict=True).macs == 3 * 4 * 3


def gram(x: Tensor) -> Tensor:
    return x @ x.t()


def test_operators_that_torchscript_runs_itself_are_flagged() -> None:
    """An optimised frozen convolution dispatches no op: 0 FLOPs, flagged with its name."""
    scripted, frozen = torch.jit.script(nn.Conv2d(4, 6, 3).eval()), optimised(nn.Conv2d(4, 6, 3))
    wrapped = nn.Sequential(frozen)
    with torch.no_grad():
        for run in (frozen, wrapped, lambda x: wrapped(x)):
            assert "prim::mkldnn_convolution" in count(run, IMAGES).ops_without_formula
        with pytest.raises(MissingFormulaError, match="before freezing"):
            count(frozen, IMAGES, strict=True)
        assert count(scripted, IMAGES, strict=True).macs == 6 * 36 * 36


def test_every_way_into_a_script_is_covered() -> None:
    """`forward` itself, other exported methods, and a method that was taken hold of earlier."""
    module = optimised(TwoMethods(), keep=["embed"])
    earlier = module.forward
    with torch.no_grad():
        for run in (module.forward, module.embed, earlier, lambda x: module.embed(x)):
            assert "prim::mkldnn_convolution" in count(run, IMAGES).ops_without_formula


@pytest.fixture
def onednn_fusion() -> Iterator[None]:
    """oneDNN's graph fusion of frozen modules, which is off by default."""
    torch.jit.enable_onednn_fusion(True)
    yield
    torch.jit.enable_onednn_fusion(False)


def test_fused_groups_are_flagged_once_the_plan_has_them(onednn_fusion: None) -> None:
    """The first runs are profiled op by op and counted; the plan that follows is not."""
    layers = nn.Sequential(nn.Conv2d(4, 6, 3), nn.ReLU(), nn.Conv2d(6, 6, 3)).eval()
    with torch.no_grad():
        fused = torch.jit.freeze(torch.jit.trace(layers, IMAGES))
        for _ in range(3):
            fused(IMAGES)
        found = count(fused, IMAGES)
    assert (found.total, found.complete) == (0, False)
    assert "prim::oneDNNFusionGroup" in found.ops_without_formula


def test_work_that_a_script_forks_is_flagged() -> None:
    """It runs in a thread of the interpreter's own pool, which no mode follows."""
    forking = torch.jit.script(in_the_background)
    assert "prim::fork" in count(forking, r(4, 4)).ops_without_formula


def test_methods_of_cpp_classes_are_flagged_where_they_compute() -> None:
    """A packed parameter may be described and unpacked, but tensor in, tensor out is work."""
    weight = torch.quantize_per_tensor(r(4, 8), 0.1, 0, torch.qint8)
    packed = torch.ops.quantized.linear_prepack(weight, r(4))
    assert count(packed.unpack).complete
    # No class of this build computes, so the rule is tried on what would look like one.
    owner = SimpleNamespace(_type=lambda: CppType())
    method = SimpleNamespace(name="forward", owner=owner)
    assert list(executors._hidden_in(method, (r(3),), r(3))) == ["Experts.forward"]
    assert list(executors._hidden_in(method, (r(3),), None)) == []


class CppType:
    """The type of a class that a C++ library registered."""

    def __str__(self) -> str:
        return "__torch__.torch.classes.mylib.Experts"

    def name(self) -> str:
        """As torch's own types have it."""
        return "Experts"


def interpreters() -> Iterator[tuple[str, str]]:
    """Classes of torch._C with an entry that runs something: (module, class)."""
    entries = {"run", "boxed_run", "run_method", "forward", "replay", "call", "__call__"}
    seen: set[Any] = set()

    def walk(module: ModuleType) -> Iterator[tuple[str, str]]:
        for name, value in list(vars(module).items()):
            if value in seen if isinstance(value, (type, ModuleType)) else True:
                continue
            seen.add(value)
            if isinstance(value, type):
                if entries & set(vars(value)):
                    yield module.__name__, name
            elif value.__name__.startswith("torch._C"):
                yield from walk(value)

    yield from walk(torch._C)


# They run no program: autograd's nodes (their ops are dispatched), guards of compiled code, text.
HARMLESS = {"torch._C._functions", "torch._C._dynamo.guards"}
HARMLESS_CLASSES = {"FileCheck", "ScriptClass", "ScriptClassFunction"}


def test_no_interpreter_of_torch_is_forgotten() -> None:
    """Every class of torch's C++ core that runs programs is listed, in any torch."""
    known = {(module, name) for module, name, _ in EXECUTORS} | set(SCRIPTED)
    found = {
        (module, name)
        for module, name in interpreters()
        if module not in HARMLESS and name not in HARMLESS_CLASSES
    }
    assert len(found) >= 6
    assert found <= known


@pytest.mark.parametrize(("module", "name", "entries"), EXECUTORS)
def test_every_listed_interpreter_is_flagged(
    module: str, name: str, entries: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call of any of its entries, in the counted thread, makes the count incomplete."""
    owner = getattr(sys.modules.get(module), name, None)
    for entry in entries:
        if owner is None or entry not in vars(owner):  # of another device's build, or not loaded
            continue
        monkeypatch.setattr(owner, entry, lambda *args: args[0])
        found = count(lambda: vars(owner)[entry](r(2, 2)))  # noqa: B023
        flag = f"outside::{name}.{entry}".removesuffix(".__call__")
        assert found.ops_without_formula == {flag: 1}
        assert vars(owner)[entry](3) == 3  # restored


def test_tensors_in_onednns_layout_are_exact() -> None:
    """Layers in oneDNN's own layout have formulas, and nothing is flagged."""
    import torch.utils.mkldnn

    linear = torch.utils.mkldnn.to_mkldnn(nn.Linear(4, 5).eval())
    conv = torch.utils.mkldnn.to_mkldnn(nn.Sequential(nn.Conv2d(4, 6, 3), nn.ReLU()).eval())
    with torch.no_grad():
        assert count(lambda: linear(r(3, 4).to_mkldnn()).to_dense(), strict=True).macs == 60
        counted = count(lambda: conv(IMAGES.to_mkldnn()).to_dense(), strict=True)
    assert counted.macs == 6 * 36 * 36


def two_layers() -> nn.Module:
    return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 8)).eval()


@pytest.mark.soak
def test_an_aotinductor_package_is_flagged(tmp_path: Path) -> None:
    """Its code is compiled: no product of it is dispatched."""
    model, x = two_layers(), r(4, 16)
    with torch.no_grad():
        exported = torch.export.export(model, (x,))
        path = torch._inductor.aoti_compile_and_package(
            exported, package_path=str(tmp_path / "model.pt2")
        )
        package = torch._inductor.aoti_load_package(path)
        found = count(package, x)
    assert torch.allclose(found.result, model(x), atol=1e-5)
    assert found.total == 0
    assert found.ops_without_formula == {"outside::AOTIModelPackageLoader.boxed_run": 1}


@pytest.mark.soak
def test_a_graph_that_inductor_compiled_is_flagged() -> None:
    """Called by itself it is compiled code; through torch.compile its eager program is counted."""
    from torch.fx.experimental.proxy_tensor import make_fx

    model, x = two_layers(), r(4, 16)
    with torch.no_grad():
        compiled: Callable[[Tensor], Any] = torch._inductor.compile(make_fx(model)(x), [x])
        assert "outside::CompiledFxGraph" in count(compiled, x).ops_without_formula
        assert count(torch.compile(model), x, strict=True).macs == 4 * (16 * 32 + 32 * 8)
