"""The replies of a worker, checked as they arrive.

A worker is another revision's code, which may leave a field out or use another type. That ends in
one sentence with the revision's name, where the reply arrives.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from bench.records.validation import first_error

# Part of every reply to "open". Another number means that requests or replies have another meaning;
# such revisions are not comparable. Names of requests and fields are fixed by it.
PROTOCOL = 1


class _Reply(BaseModel):
    model_config = ConfigDict(allow_inf_nan=False)


class OpenReply(_Reply):
    """A trained trial: its quality, its counts, and where it runs."""

    quality: float | None
    quality_unit: str
    direction: Literal["higher", "lower"]
    counts: dict[str, float]
    environment: dict[str, Any]


class CanaryReply(_Reply):
    """Ready to time the canary alone: the threads that it runs with."""

    num_threads: int = Field(ge=1)


class WarmReply(_Reply):
    """A warm-up: seconds of the last pass, and whether times settled."""

    pass_s: float = Field(gt=0)
    steady: bool


class BlockReply(_Reply):
    """A timed block: seconds of all its passes."""

    seconds: float = Field(gt=0)


class WindowReply(BaseModel):
    """An energy window: joules per pass, and why they may not count."""

    # Infinite and negative values are allowed here: `doubt` gives their reason.
    joules: float
    doubt: str | None


class QualityReply(_Reply):
    """Another seed, trained: its quality."""

    quality: float | None


REPLIES: dict[str, type[BaseModel]] = {
    "canary": CanaryReply,
    "open": OpenReply,
    "warm": WarmReply,
    "block": BlockReply,
    "window": WindowReply,
    "quality": QualityReply,
}


def reply_error(request: str, reply: Mapping[str, Any]) -> str | None:
    """What is wrong with the reply to a request; None if nothing is.

    Another protocol, Unsupported and refused energy are valid without further fields.
    """
    other_protocol = request == "open" and reply.get("protocol") != PROTOCOL
    if other_protocol or "skipped" in reply or "refused" in reply:
        return None
    return first_error(REPLIES[request], reply, "reply")
