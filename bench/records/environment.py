"""Which machine and which software: what a number depends on besides the code.

Observed, never asserted: the processor from /proc, the GPU from its driver (NVML). No torch, and no
environment variable or key is ever copied, except the thread settings named below.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from bench.records.git import git
from bench.records.processor import Processor, read_processor, slug

GIT_TIMEOUT_S = 10.0  # the commit is not worth a trial
PACKAGES = (
    "torch",
    "pytorch-lightning",
    "hydra-core",
    "numpy",
    "scipy",
    "scikit-learn",
    "pandas",
    "fvcore",
    "nvidia-ml-py",
    "wandb",
    "condbench",
)
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


def hardware_class(device: str = "cpu") -> str:
    """The hardware's name in folders and tables.

    `nvidia-h200`, or `cpu-2x-epyc-f26m2s1-48k-1m-32m-kvm`: hosts that share a processor's name
    differ in the rest (`bench.records.processor`). `device` is `cpu`, or `cuda` for the GPUs that
    NVML shows. Raises LookupError for `cuda` without a driver.
    """
    if device == "cpu":
        # The affinity mask, not the machine: a container or Slurm job may have two of 64 cores.
        return f"cpu-{len(os.sched_getaffinity(0))}x-{processor().folder_name}"
    names = sorted({slug(gpu["name"]) for gpu in gpus()})
    if not names:
        raise LookupError("no NVIDIA GPU: NVML finds no driver (choose gpu=cpu)")
    return "+".join(names)


@cache
def processor() -> Processor:
    """The processor of this machine."""
    return read_processor()


def num_physical_cores() -> int:
    """Physical cores in the affinity mask: the default number of threads."""
    cores = set()
    for cpu in os.sched_getaffinity(0):
        topology = f"/sys/devices/system/cpu/cpu{cpu}/topology"
        # Equal for the hyper-threads of one core; without it every CPU counts as a core.
        siblings = _read(f"{topology}/thread_siblings_list").strip()
        cores.add(siblings or str(cpu))
    return len(cores)


def gpus() -> list[dict[str, Any]]:
    """Name, UUID, memory, driver and power limit of every GPU that NVML shows; [] without one."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # no driver or no library: a machine without a GPU
        return []
    try:
        return [_gpu(pynvml, index) for index in range(pynvml.nvmlDeviceGetCount())]
    finally:
        pynvml.nvmlShutdown()


def _gpu(pynvml: Any, index: int) -> dict[str, Any]:
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)

    def query(function: str, *arguments: Any) -> Any:
        # Boards, MIG slices and drivers differ in what they support: null for what is missing.
        try:
            return getattr(pynvml, function)(*arguments)
        except pynvml.NVMLError:
            return None

    limit_mw = query("nvmlDeviceGetPowerManagementLimit", handle)
    memory = query("nvmlDeviceGetMemoryInfo", handle)
    return {
        "name": query("nvmlDeviceGetName", handle),
        "uuid": query("nvmlDeviceGetUUID", handle),
        "driver": query("nvmlSystemGetDriverVersion"),
        "memory_bytes": memory.total if memory else None,
        "power_limit_w": limit_mw / 1000 if limit_mw is not None else None,
    }


def versions() -> dict[str, str]:
    """Versions of the packages that a measurement depends on, as installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def git_commit(folder: Path | None = None) -> str | None:
    """The commit of `folder` (default: this package), `-dirty` if changed; None outside git.

    None also for an installed package inside a repository of something else, whose commit does not
    identify it.
    """
    where = str(folder or Path(__file__).parent)
    try:
        if folder is None:
            # Fails unless this file is tracked, that is, unless the repository is ours.
            git(where, "ls-files", "--error-unmatch", Path(__file__).name, timeout_s=GIT_TIMEOUT_S)
        commit = git(where, "rev-parse", "HEAD", timeout_s=GIT_TIMEOUT_S)
        # Untracked files are results and notes of the user, not code.
        dirty = git(where, "status", "--porcelain", "--untracked-files=no", timeout_s=GIT_TIMEOUT_S)
    except (OSError, subprocess.SubprocessError):
        return None
    return commit + ("-dirty" if dirty else "")


def numerics() -> dict[str, Any] | None:
    """How torch computes in this process: formats and algorithms; None before its import.

    null stands for what this version of torch does not have.
    """
    # Never imported here: the reading side starts without it.
    torch = sys.modules.get("torch")
    if torch is None:
        return None

    def read(setting: Callable[[], Any]) -> Any:
        try:
            return setting()
        except (AttributeError, RuntimeError):
            return None

    return {
        "default_dtype": read(lambda: str(torch.get_default_dtype()).removeprefix("torch.")),
        "float32_matmul_precision": read(torch.get_float32_matmul_precision),
        "matmul_tf32": read(lambda: torch.backends.cuda.matmul.allow_tf32),
        "cudnn_tf32": read(lambda: torch.backends.cudnn.allow_tf32),
        "cudnn_benchmark": read(lambda: torch.backends.cudnn.benchmark),
        "cudnn_deterministic": read(lambda: torch.backends.cudnn.deterministic),
        "deterministic_algorithms": read(torch.are_deterministic_algorithms_enabled),
    }


def load() -> float:
    """The one-minute load average: what else kept the machine busy."""
    return round(os.getloadavg()[0], 2)


def fingerprint() -> dict[str, Any]:
    """The record's `environment`: processor, threads, GPUs, versions, numerics, commit, load."""
    return {
        "cpu_model": processor().name,
        "cpu": processor().as_json(),
        "num_cores": len(os.sched_getaffinity(0)),
        "num_physical_cores": num_physical_cores(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": platform.release(),
        "governor": _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").strip() or None,
        "thread_settings": {name: os.environ.get(name) for name in THREAD_VARIABLES},
        "gpus": gpus(),
        "versions": versions(),
        "numerics": numerics(),
        "git_commit": git_commit(),
        "load_1min": load(),
    }


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError:
        return ""
