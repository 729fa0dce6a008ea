"""Floats that come into torch during a pass: a result that no operation computed.

Whatever computes outside torch (NumPy, compiled code, another process, an older thread) has to
bring its result back, in memory that no dispatched operation wrote. Constants come in as well, from
lists and arrays or from before the pass; they are the same whatever the input.

    first pass        learns which memory is older than the pass that counts
    second pass       newer memory that is read and that no operation wrote has come in from outside
    other inputs      what comes in with equal contents for another input is a constant
    older memory      that no operation wrote but whose contents change was written from outside
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._C import DispatchKey
from torch._ops import HigherOrderOperator
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode_stack

from bench.meters.flops.control_flow import INTERPRETERS, interpret_control_flow
from bench.meters.flops.dispatch_state import caller_state
from bench.meters.flops.rules import Rules
from bench.meters.flops.threads import watch_other_threads
from bench.meters.flops.unwritten import dense_tensors
from bench.meters.guard import refuse_if_dispatch_watched

Digest = bytes  # of contents
MAX_HASHED = 2**18  # bytes of a storage
_RULES = Rules()


def count_entries(fn: Callable[[Any], object], inputs: Sequence[Any]) -> int:
    """The most floats that one call brings into torch from outside, and that depend on its input.

    Runs `fn` twice on each of `inputs`, of which there must be two at least for constants to show.
    0 where a pass worked in other threads: a count follows those, this does not.
    Raises MeterStateError under a dispatch mode or a profiler.
    """
    refuse_if_dispatch_watched("floats from outside")
    known = _Memory()
    entries: list[dict[Digest, int]] = []
    changed = 0
    with interpret_control_flow(_is_watched_here), watch_other_threads() as others:
        for each in inputs:
            for is_counted in (False, True):
                with _Pass(known, each) as seen:
                    seen.read(fn(each))
                if is_counted:
                    entries.append(seen.entries)
                changed = max(changed, seen.num_changed)
        # Before the block ends, which adds older threads that were busy: their results do come in.
        has_sent_work = bool(others)
    if has_sent_work:
        return 0  # their operations were not seen, and what they wrote looks like an entry
    often = Counter(digest for found in entries for digest in found)
    fresh = (sum(n for key, n in found.items() if often[key] == 1) for found in entries)
    return max([changed, *fresh])


class _Memory:
    """Storages met so far: those that operations wrote, and the contents of the others."""

    def __init__(self) -> None:
        # By address of the storage object, which the weak reference keeps from being used again.
        self.references: dict[int, StorageWeakRef] = {}
        self.written: set[int] = set()
        self.contents: dict[int, Digest] = {}

    def add(self, tensor: Tensor) -> int:
        """The key of the tensor's storage, which is known from now on."""
        storage = tensor.untyped_storage()
        key: int = storage._cdata
        if key not in self.references:
            self.references[key] = StorageWeakRef(storage)
        return key


class _Pass(TorchDispatchMode):
    """One call: what it reads that no operation wrote."""

    supports_higher_order_operators = True

    def __init__(self, memory: _Memory, given: Any) -> None:
        super().__init__()
        self.memory = memory
        self.before = set(memory.references)  # storages of earlier passes
        self.entries: dict[Digest, int] = {}  # of newer ones, with their number of floats
        self.num_changed = 0  # floats of an older one that changed
        self.seen: set[int] = set()
        for tensor in dense_tensors(given):
            memory.written.add(memory.add(tensor))

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if isinstance(func, HigherOrderOperator):
            return self._higher_order(func, args, kwargs)
        rule = _RULES.of(func)
        if rule.kind == "composite" and not any(_is_nested(arg) for arg in args):
            with caller_state(func), self:  # in inference mode it arrives whole
                return func._op_dk(DispatchKey.CompositeImplicitAutograd, *args, **kwargs)
        arguments = rule.arguments(args, kwargs)
        self.read(rule.read_in(arguments))
        output = func(*args, **kwargs)
        self._note_written(arguments, rule.written_in(arguments), output)
        return output

    def _higher_order(self, func: HigherOrderOperator, args: tuple, kwargs: dict) -> Any:
        """Control flow runs as Python under the mode; what other operators return is theirs."""
        interpret = INTERPRETERS.get(func.name())
        if interpret is not None:
            with self:  # inside its handler a mode is off
                return interpret(*args, **kwargs)
        output = func(*args, **kwargs)
        self._note_written({}, [], output)
        return output

    def _note_written(self, arguments: dict[str, Any], written: list[Any], output: Any) -> None:
        """What the op wrote is torch's; a view of what came in is not written by the view."""
        given = {self.memory.add(tensor) for tensor in dense_tensors(arguments)}
        new = (
            key for tensor in dense_tensors(output) if (key := self.memory.add(tensor)) not in given
        )
        self.memory.written.update(new)
        self.memory.written.update(self.memory.add(tensor) for tensor in dense_tensors(written))

    def read(self, value: Any) -> None:
        """Note the tensors in `value` that no operation wrote."""
        for tensor in dense_tensors(value):
            key = tensor.untyped_storage()._cdata
            if key in self.memory.written or key in self.seen or not _counts(tensor):
                continue
            self.seen.add(self.memory.add(tensor))
            digest = _digest(tensor)
            if key not in self.before:
                self.entries[digest] = max(tensor.numel(), self.entries.get(digest, 0))
            elif self.memory.contents.get(key, digest) != digest:
                self.num_changed += tensor.numel()
            self.memory.contents[key] = digest


def _counts(tensor: Tensor) -> bool:
    """Several floats: one number is a decision, integers are indices."""
    return (tensor.is_floating_point() or tensor.is_complex()) and tensor.numel() > 1


def _digest(tensor: Tensor) -> Digest:
    """A hash of the tensor's memory, so that every view of it has the same.

    Of large memory, weights most of all, every so many bytes: a result changes nearly all of them.
    """
    storage = tensor.untyped_storage()
    raw = torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(storage)
    sample = raw[:: storage.nbytes() // MAX_HASHED | 1]  # odd: all bytes of a number are met
    return hashlib.blake2b(sample.cpu().numpy().tobytes(), digest_size=16).digest()


def _is_watched_here() -> bool:
    return any(isinstance(mode, _Pass) for mode in _get_current_dispatch_mode_stack())


def _is_nested(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_nested
