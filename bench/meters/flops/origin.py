"""The origin of an op and its kernels: registered by torch itself, or by other code.

A plugin chooses the namespace, the name and the tags of its own op, and it may replace the kernel
of one of torch's. None of that is evidence of what the op costs. The dispatcher notes the source
file of every registration: torch's C++ files share the root of its build, its Python files lie in
its package.
"""

from __future__ import annotations

import re
import sys
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch._ops import OpOverload

_REGISTERED = re.compile(r"^(\S+): registered at (.+):\d+(?: ::.*)?$", re.MULTILINE)
# They register ops and kernels for their callers, whose own file the dispatcher does not note.
_HELPERS = ("_library/custom_ops.py", "_library/infer_schema.py", "library.py")
# Kernels that compute shapes only; libraries add them to torch's ops in good faith.
_SHAPES_ONLY = ("Meta", "PythonDispatcher", "FuncTorch")
# Packages beside torch whose ops have formulas of ours; the namespace is the package's name.
_KNOWN_PACKAGES = ("transformers",)


def is_own(func: OpOverload) -> bool:
    """Whether torch (or a package whose formulas we have) registered the op and every kernel."""
    places = _REGISTERED.findall(torch._C._dispatch_dump(func.name()))
    schemas = [path for key, path in places if key == "debug"]
    if any(not _is_torchs(path) and not _is_known_helper(path, func) for path in schemas):
        return False
    kernels = [path for key, path in places if key != "debug" and not key.startswith(_SHAPES_ONLY)]
    # A custom op's kernels come from the file of its schema, or from a helper on its behalf.
    return all(_is_torchs(path) or _is_known_helper(path, func) for path in kernels)


def num_registrations() -> int:
    """How many ops and kernels Python code has registered: a changed number outdates `is_own`."""
    return len(torch.library._defs) + len(torch.library._impls)


def _is_torchs(path: str) -> bool:
    root = _build_root()
    if path.startswith(str(_package())):
        return not path.endswith(_HELPERS)
    # A build without debug paths shows no origin: its C++ files pass.
    return root is None or path.startswith(root)


def _is_known_helper(path: str, func: OpOverload) -> bool:
    """Whether a helper's file stands for torch, or for a package whose formulas we have."""
    if not (path.startswith(str(_package())) and path.endswith(_HELPERS)):
        return False
    source = _source_of_custom_op(func)
    if source is None:  # a kernel added to an op that exists: only torch's own namespaces may
        return func.namespace.removesuffix("_autograd") in ("_c10d_functional", "c10d_functional")
    return any(source.is_relative_to(folder) for folder in _folders(func.namespace))


def _source_of_custom_op(func: OpOverload) -> Path | None:
    """The file that defines the function behind a `torch.library.custom_op`."""
    definition: Any = torch._library.custom_ops.OPDEFS.get(func._schema.name)
    code = getattr(getattr(definition, "_init_fn", None), "__code__", None)
    return Path(code.co_filename) if code is not None else None


def _folders(namespace: str) -> list[Path]:
    folders = [_package()]
    module = sys.modules.get(namespace) if namespace in _KNOWN_PACKAGES else None
    if module is not None and module.__file__:
        folders.append(Path(module.__file__).parent)
    return folders


@cache
def _package() -> Path:
    return Path(torch.__file__).parent


@cache
def _build_root() -> str | None:
    """The folder in which torch's C++ sources were compiled."""
    for key, path in _REGISTERED.findall(torch._C._dispatch_dump("aten::mm")):
        if key == "debug":
            root, found, _ = path.partition("build/aten/")
            return root if found else None
    return None
