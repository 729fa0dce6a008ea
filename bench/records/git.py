"""One git command, read as text."""

from __future__ import annotations

import subprocess
from pathlib import Path


def git(folder: Path | str, *arguments: str, timeout_s: float) -> str:
    """What `git -C folder arguments` prints, without the spaces around it.

    A repository on a network drive may hang: after `timeout_s` seconds the command is killed.
    Raises OSError where there is no git, and subprocess.SubprocessError where it fails.
    """
    run = subprocess.run(
        ["git", "-C", str(folder), *arguments],
        capture_output=True,
        text=True,
        encoding="utf-8",
        errors="replace",
        check=True,
        timeout=timeout_s,
    )
    return run.stdout.strip()
