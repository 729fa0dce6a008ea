"""Floats that leave torch: what is done to them elsewhere is in no count.

    x.numpy(), np.asarray(x), x.tolist()       into Python and NumPy
    x.data_ptr(), x.untyped_storage(), pickle  into C code, files and other processes
    x.view(torch.int32).numpy()                the same bits under another name
    x[0].item(), float(x[1])                   several elements of one tensor, one by one
    x.apply_(f), x.map_(y, f)                  Python code for each element
    os.fork(), subprocess                      another process, which has a copy of everything

Integers may leave: lengths and indices steer Python code. One number may as well: it is a decision.
The implementation of an operation may do anything: its formula gives the cost.
"""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from multiprocessing.process import BaseProcess
from typing import Any

import torch
import torch.utils.dlpack
from torch import Tensor
from torch.overrides import TorchFunctionMode

from bench.meters.flops.threads import is_counted_here

# Methods that hand a tensor's memory or values out, by the names that a function mode sees.
VALUES = ("numpy", "__array__", "tolist", "__dlpack__", "data_ptr", "apply_", "map_", "map2_")
SINGLE = ("item", "__float__", "__complex__")  # of tensors with one element
MAX_SETTINGS = 64  # elements of weights, buffers or inputs that may be read one by one: thresholds
MEMORY = ("untyped_storage", "storage", "_typed_storage", "share_memory_", "__reduce_ex__")
# What starts a process, or lets one that exists do something.
_PROCESSES: tuple[tuple[Any, str], ...] = (
    (BaseProcess, "start"),
    (subprocess.Popen, "_execute_child"),
    (os, "system"),
    (os, "posix_spawn"),
    (os, "posix_spawnp"),
)
_DLPACK: tuple[tuple[Any, str], ...] = (
    (torch.utils.dlpack, "to_dlpack"),
    (torch._C, "_to_dlpack"),
)
FORK = "a process by fork"
OnExit = Callable[[str, int], None]  # how, and how many floats; 0 for a process
_patching = threading.RLock()
_watches: list[_Watch] = []  # those that are open, in any thread


@contextmanager
def watch_exits(on_exit: OnExit = lambda how, num_floats: None) -> Iterator[dict[str, int]]:
    """Inside, how floats left torch in counted code, with their largest number at once.

    `on_exit` is called in this thread only, before they leave; what it raises reaches the caller.
    A fork is only listed.
    Other threads are watched too, also those that are older than the block.
    """
    watch = _Watch(on_exit)
    with _patching, ExitStack() as stack:
        for name in VALUES:
            stack.enter_context(_replaced(Tensor, name, watch.method))
        for owner, name in _DLPACK:
            stack.enter_context(_replaced(owner, name, watch.function))
        for owner, name in _PROCESSES:
            stack.enter_context(_replaced(owner, name, watch.process))
        _watches.append(watch)
        stack.callback(_watches.remove, watch)
        with watch:
            yield watch.found


class _Watch(TorchFunctionMode):
    """Sees the functions of its own thread; its wrappers see those of the others."""

    def __init__(self, on_exit: OnExit) -> None:
        super().__init__()
        self.on_exit = on_exit
        self.thread = threading.get_ident()
        self.found: dict[str, int] = {}
        # Integers that are the bits of floats share their memory: kept, so that no address of it
        # is used again.
        self.bits: list[Tensor] = []
        # Elements that left one by one: their places, by the address of their memory, kept too.
        self.singles: dict[int, set[int]] = {}
        self.kept: list[Tensor] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = getattr(func, "__name__", "")
        # Inside the handler of a count, or an operation's implementation, nothing is counted.
        if name in (*VALUES, *MEMORY, *SINGLE) and args and is_counted_here():
            self._see(name, args[0])
        result = func(*args, **(kwargs or {}))
        if name == "view" and isinstance(result, Tensor) and _is_float(args[0]):
            self.bits += [] if _is_float(result) else [result]
        return result

    def method(self, original: Any, name: str) -> Any:
        """A tensor's method as other threads call it; in its own the mode sees the call."""

        @wraps(original)
        def call(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
            if threading.get_ident() != self.thread:
                self._see(f"{name} in another thread", tensor)
            return original(tensor, *args, **kwargs)

        return call

    def function(self, original: Any, name: str) -> Any:
        """A function of a tensor that no mode sees."""

        @wraps(original)
        def call(tensor: Any, *args: Any, **kwargs: Any) -> Any:
            self._see(name, tensor)
            return original(tensor, *args, **kwargs)

        return call

    def process(self, original: Any, name: str) -> Any:
        """A function that starts a process."""

        @wraps(original)
        def call(*args: Any, **kwargs: Any) -> Any:
            self.note(f"a process by {name.strip('_')}", 0)
            return original(*args, **kwargs)

        return call

    def _see(self, how: str, tensor: Any) -> None:
        if not isinstance(tensor, Tensor) or tensor.numel() == 0:
            return
        if tensor.numel() == 1:
            self._see_one(how, tensor)
            return
        if _is_float(tensor):
            self.note(how, tensor.numel())
        elif any(_same_memory(tensor, each) for each in self.bits):
            self.note(f"{how} of their bits", tensor.numel())

    def _see_one(self, how: str, tensor: Tensor) -> None:
        """An element: alone it is a decision, several of one tensor are the tensor."""
        # A tensor of a single element is no part of a larger one; wrappers have no memory.
        if not _is_float(tensor) or type(tensor) not in (Tensor, torch.nn.Parameter):
            return
        storage = tensor.untyped_storage()
        if storage.nbytes() <= tensor.element_size():
            return
        places = self.singles.setdefault(storage.data_ptr(), set())
        places.add(int(tensor.storage_offset()))
        self.kept += [tensor] if len(places) == 1 else []
        # What inference computed is no setting; two numbers of it are values like any others.
        if len(places) > (1 if tensor.is_inference() else MAX_SETTINGS):
            self.note(f"{how} of its elements", len(places))

    def note(self, how: str, num_floats: int) -> None:
        """Record one exit, and report it if it happens in the watch's own thread."""
        self.found[how] = max(num_floats, self.found.get(how, 0))
        # Python drops what a fork's hook raises, with a message: forks are only recorded.
        if threading.get_ident() == self.thread and how != FORK:
            self.on_exit(how, num_floats)


def _is_float(tensor: Any) -> bool:
    return isinstance(tensor, Tensor) and (tensor.is_floating_point() or tensor.is_complex())


def _same_memory(one: Tensor, other: Tensor) -> bool:
    address = one.untyped_storage().data_ptr()
    return address != 0 and address == other.untyped_storage().data_ptr()


@contextmanager
def _replaced(owner: Any, name: str, by: Callable[[Any, str], Any]) -> Iterator[None]:
    """The attribute of a class or module replaced; one that the class inherits is removed again."""
    inherited = name not in vars(owner)
    original = getattr(owner, name)
    setattr(owner, name, by(original, name))
    try:
        yield
    finally:
        if inherited:
            delattr(owner, name)
        else:
            setattr(owner, name, original)


def _note_fork() -> None:
    for watch in list(_watches):
        watch.note(FORK, 0)


# Once, for the life of the process: it runs at forks only, and does nothing without a watch.
os.register_at_fork(before=_note_fork)
