"""Settings that every model in this process runs under, by the name that a programmer would use.

Reading all of them takes less than a millisecond.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.nn.modules import module

# Variables that change how torch and its libraries compute. Others, and those that torch sets
# itself when it is first used (CUDA_MODULE_LOADING, TORCHINDUCTOR_CACHE_DIR), change no model.
VARIABLES = (
    *("BLIS_", "CUBLAS", "CUDNN", "DNNL_", "GOMP_", "KMP_", "MKL_", "NCCL_", "NVIDIA_", "OMP_"),
    *("ONEDNN_", "OPENBLAS_", "CUDA_VISIBLE", "CUDA_LAUNCH", "CUDA_DEVICE_MAX", "PYTORCH_ALLOC"),
    *("PYTORCH_CUDA_ALLOC", "TORCH_ALLOW", "TORCH_BLAS", "TORCH_CUDNN"),
)
# Set by scikit-learn when it is imported: how OpenMP behaves where two copies are loaded.
FREE_VARIABLES = ("KMP_DUPLICATE_LIB_OK", "KMP_INIT_AT_FORK")
TIMERS = (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)
SUBNORMAL = 1e-310  # of float64: a processor that flushes subnormal numbers makes 0 of it
COLLECTING = "gc.isenabled()"  # off in timed regions, for everything alike
GLOBAL_HOOKS = [name for name in vars(module) if name.startswith("_global_") and "hooks" in name]

# Flags of kernels that have no public getter, or one that fails where old and new ways mix. Not
# those that torch sets itself when a GPU is first used: preferred libraries, attention's order.
FLAGS = (
    *("_get_nnpack_enabled", "_get_mkldnn_enabled", "_get_mkldnn_deterministic"),
    *("_get_cudnn_enabled", "_get_cudnn_benchmark", "_get_cudnn_deterministic"),
    *("_get_flash_sdp_enabled", "_get_mem_efficient_sdp_enabled", "_get_math_sdp_enabled"),
    *("_get_cudnn_sdp_enabled", "_get_overrideable_sdp_enabled"),
    *("_get_cublas_allow_fp16_reduced_precision_reduction", "_get_cublas_allow_fp16_accumulation"),
    "_get_cublas_allow_bf16_reduced_precision_reduction",
    "_get_cpu_allow_fp16_reduced_precision_reduction",
    *("_get_math_sdp_allow_fp16_bf16_reduction", "_get_graph_executor_optimize", "_get_qengine"),
)
LIBRARIES = (
    *(("generic", "all"), ("cuda", "all"), ("cuda", "matmul"), ("cuda", "conv"), ("cuda", "rnn")),
    *(("mkldnn", "all"), ("mkldnn", "matmul"), ("mkldnn", "conv"), ("mkldnn", "rnn")),
)

SETTINGS: dict[str, Callable[[], Any]] = {
    "torch.get_num_threads()": torch.get_num_threads,
    "torch.get_num_interop_threads()": torch.get_num_interop_threads,
    "torch.get_default_dtype()": torch.get_default_dtype,
    "torch.get_default_device()": torch.get_default_device,
    "torch.get_float32_matmul_precision()": torch.get_float32_matmul_precision,
    "torch.is_grad_enabled()": torch.is_grad_enabled,
    "torch.is_inference_mode_enabled()": torch.is_inference_mode_enabled,
    "torch.is_anomaly_enabled()": torch.is_anomaly_enabled,
    "torch.initial_seed()": torch.initial_seed,
    "torch.is_autocast_cache_enabled()": torch.is_autocast_cache_enabled,
    "autocast on the CPU": lambda: _autocast("cpu"),
    "autocast on the GPU": lambda: _autocast("cuda"),
    "deterministic algorithms": torch.get_deterministic_debug_mode,
    "torch.set_flush_denormal": lambda: _flushes_subnormal_numbers(),
    "torch.backends.fp32_precision": lambda: [
        torch._C._get_fp32_precision_getter(*each) for each in LIBRARIES
    ],
    **{name: getattr(torch._C, name) for name in FLAGS if hasattr(torch._C, name)},
    "torch.backends.mha.get_fastpath_enabled()": torch.backends.mha.get_fastpath_enabled,
    "torch's profiler": torch.autograd._profiler_enabled,
    "modes that see torch's functions": torch._C._len_torch_function_stack,
    "modes that see torch's operations": torch._C._len_torch_dispatch_stack,
    "hooks of all modules": lambda: [len(vars(module)[name]) for name in GLOBAL_HOOKS],
    "sys.gettrace()": lambda: _names(sys.gettrace(), threading.gettrace()),
    "sys.getprofile()": lambda: _names(sys.getprofile(), threading.getprofile()),
    "sys.getswitchinterval()": sys.getswitchinterval,
    COLLECTING: gc.isenabled,
    "gc.get_threshold()": gc.get_threshold,
    "gc.callbacks": lambda: _names(*gc.callbacks),
    "timers": lambda: [signal.getitimer(which)[1] for which in TIMERS],
    "cores of this process": lambda: sorted(os.sched_getaffinity(0)),
    "priority of this process": lambda: os.getpriority(os.PRIO_PROCESS, 0),
    "scheduling of this process": lambda: os.sched_getscheduler(0),
}


def settings_in_force() -> dict[str, Any]:
    """The value of every setting; of a setting that cannot be read, why not."""
    found = {name: _read(read) for name, read in SETTINGS.items()}
    return found | {
        f"variable {name}": value
        for name, value in os.environ.items()
        if name.startswith(VARIABLES) and name not in FREE_VARIABLES
    }


def changed_settings(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """A phrase for every setting that differs: its name, and its values before and now."""
    return [
        f"{name}: {before.get(name, 'not set')} before, {now.get(name, 'not set')} now"
        for name in {**before, **now}
        if before.get(name, _ABSENT) != now.get(name, _ABSENT)
    ]


_ABSENT = object()


def _read(read: Callable[[], Any]) -> Any:
    try:
        found = read()
    except (RuntimeError, OSError):  # torch refuses some while others contradict them
        return "unreadable"
    return found


def _flushes_subnormal_numbers() -> bool:
    return bool(torch.tensor(SUBNORMAL, dtype=torch.float64, device="cpu").mul(1) == 0)


def _autocast(kind: str) -> Any:
    return torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind)


def _names(*functions: object) -> list[str]:
    return [getattr(each, "__qualname__", str(each)) for each in functions if each is not None]
