"""External services that a run may use: Weights & Biases, Slurm. Keys are checked, never shown."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import netrc
import os
import shutil
from collections.abc import Iterator, Mapping

from bench.selftest.finding import Finding

PART = "services"
WANDB_HOST = "api.wandb.ai"


def examine_services(environ: Mapping[str, str] = os.environ) -> Iterator[Finding]:
    """One finding each about W&B and Slurm."""
    yield _wandb(environ)
    yield _slurm(environ)


def _wandb(environ: Mapping[str, str]) -> Finding:
    # `find_spec` does not import it, which would take seconds.
    if importlib.util.find_spec("wandb") is None:
        return Finding(PART, "wandb", "no", "not installed")
    version = importlib.metadata.version("wandb")
    has_key = bool(environ.get("WANDB_API_KEY")) or _in_netrc()
    online = "a key is set: wandb.mode=online works" if has_key else "no key: offline only"
    return Finding(PART, "wandb", "ok", f"version {version}, {online}", {"has_key": has_key})


def _in_netrc() -> bool:
    try:
        return netrc.netrc().authenticators(WANDB_HOST) is not None
    except (OSError, netrc.NetrcParseError):  # no such file, or one that other programs wrote
        return False


def _slurm(environ: Mapping[str, str]) -> Finding:
    # Inside a job `sbatch` may exist as well, but a nested submission is seldom intended.
    if "SLURM_JOB_ID" in environ:
        return Finding(PART, "slurm", "ok", "inside a job", {"inside": True})
    sbatch = shutil.which("sbatch")
    if sbatch:
        return Finding(PART, "slurm", "ok", f"jobs can be submitted ({sbatch})", {"inside": False})
    return Finding(PART, "slurm", "no", "sbatch is not installed")
