"""Trying every contract: of a method or backbone on the tiny tasks that it supports, of a task."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from types import MappingProxyType
from typing import Any

import torch

from bench.check.candidate import Candidate
from bench.check.catalogue import BACKBONE_CONTRACTS, CONTRACTS, TASK_CONTRACTS
from bench.check.contract import Broken, Contract, NotDefined
from bench.check.data import TaskCandidate
from bench.check.dense_models import Dense, small
from bench.check.findings import BUILDS, SHARED, SPELLING, Finding, Verdict
from bench.check.source_lines import class_line, error_line, gate_line
from bench.check.supported_tasks import candidates
from bench.meters.conditions import pinned_threads
from bench.meters.shared.state import SharedState, in_words
from bench.plugins import Plugin, construct, defaults
from bench.plugins.hooks import resolve

OnLine = Callable[[str], None]


def check(
    plugin: Plugin,
    settings: Mapping[str, Any] = MappingProxyType({}),
    on_line: OnLine = lambda line: None,
) -> Verdict:
    """Try every contract on a method, backbone or task: its defaults but for `settings` (as JSON).

    `on_line` gets each line of the report as soon as it is known. Raises BrokenPlugin where the
    plugin cannot be imported or made.
    """
    started, verdict = time.perf_counter(), Verdict(plugin.name)
    # Tiny matrices gain nothing from threads, and on a busy machine threads wait for one another.
    with pinned_threads(1), _watched(verdict, plugin, on_line):
        made = _made(plugin, plugin.load(), settings)
        if plugin.kind == "task":
            task = TaskCandidate(plugin.name, made)
            verdict.tasks = [task.task]
            _try_all(TASK_CONTRACTS, [task], verdict, on_line)
        elif plugin.kind == "backbone":
            found = _candidates(verdict, Dense(), small(plugin, settings))
            _try_all(BACKBONE_CONTRACTS, found, verdict, on_line)
        else:
            _try_all(CONTRACTS, _candidates(verdict, made), verdict, on_line)
    verdict.time_s = time.perf_counter() - started
    _show(on_line, verdict.end_lines())
    return verdict


@contextmanager
def _watched(verdict: Verdict, plugin: Plugin, on_line: OnLine) -> Iterator[None]:
    """Add a finding where the block changed what all models share, the plugin's import included."""
    torch.manual_seed(0)  # as contracts do, so that the seed is no difference
    shared = SharedState()
    yield
    torch.manual_seed(0)
    if changes := shared.changes():
        cls, message = plugin.load(), in_words("it", changes)
        verdict.findings.append(Finding(SHARED, "every task", "broken", message, class_line(cls)))
        _show(on_line, verdict.contract_lines(SHARED))


def _try_all(
    contracts: Sequence[Contract], found: list[Any], verdict: Verdict, on_line: OnLine
) -> None:
    _show(on_line, verdict.head_lines())
    for name in dict.fromkeys(finding.contract for finding in verdict.findings):
        _show(on_line, verdict.contract_lines(name))
    for contract in contracts:
        found = _try(contract, found, verdict)
        if any(finding.contract == contract.name for finding in verdict.findings):
            _show(on_line, verdict.contract_lines(contract.name))


def _show(on_line: OnLine, lines: Iterable[str]) -> None:
    for line in lines:
        on_line(line)


def _made(plugin: Plugin, cls: type, settings: Mapping[str, Any]) -> Any:
    """The plugin from JSON, as a trial makes it: what JSON cannot bring back shows here."""
    try:
        return construct(cls, {**defaults(cls), **settings})
    except (TypeError, ValueError) as error:
        raise plugin.broken(str(error)) from error
    except (Exception, SystemExit) as error:  # whatever the plugin's own code raises
        with_them = "with its settings" if settings else "with its defaults"
        raise plugin.broken(f"{type(error).__name__} {with_them}: {error}") from error


def _candidates(verdict: Verdict, method: Any, backbone: Any = None) -> list[Candidate]:
    """The method on the tasks that it supports; what it refuses, and what breaks, is noted.

    With a backbone, that one on the tasks that it supports.
    """
    cls = type(method if backbone is None else backbone)
    try:
        found, verdict.refused = candidates(verdict.method, method, backbone)
    except (Exception, SystemExit) as error:
        verdict.findings.append(_raised(BUILDS, "every task", error, cls))
        return []
    verdict.tasks = [candidate.task for candidate in found]
    for suspect in resolve(method).suspects:
        message = f"{suspect} Nothing calls it; a name that begins with _ is not taken for a hook"
        verdict.findings.append(Finding(SPELLING, cls.__name__, "broken", message, class_line(cls)))
    return found


def _try(contract: Contract, found: list[Any], verdict: Verdict) -> list[Any]:
    """Try one contract on every task; the candidates for which the next one means something."""
    left = []
    for candidate in found:
        finding = attempt(contract, candidate)
        verdict.findings.append(finding)
        verdict.plugin_formula_ops |= candidate.plugin_formula_ops
        # A prerequisite that raised by itself is a typo rather than NaN: the others show the rest.
        if contract.prerequisite and finding.outcome == "broken" and not finding.error:
            verdict.stopped.append(candidate.task)
        else:
            left.append(candidate)
    return left


def attempt(contract: Contract, candidate: Any) -> Finding:
    """Try one contract; what the method raises by itself is broken too."""
    task = candidate.task
    try:
        contract.attempt(candidate)
    except NotDefined as reason:
        return Finding(contract.name, task, "not defined", str(reason))
    except Broken as found:
        is_task = isinstance(candidate, TaskCandidate)
        line = found.line or (
            class_line(candidate.cls) if is_task else gate_line(candidate, found.gate)
        )
        return Finding(contract.name, task, "broken", str(found), line)
    except (Exception, SystemExit) as error:
        return _raised(contract.name, task, error, candidate.cls)
    finally:
        # A contract may break at another point. What set_point raises was found by at_points.
        with suppress(Exception):
            candidate.set_default()
    return Finding(contract.name, task, "kept")


def _raised(contract: str, task: str, error: BaseException, cls: type) -> Finding:
    kind = type(error).__name__
    message = f"{kind}: {' '.join(str(error).split())}"
    return Finding(contract, task, "broken", message, error_line(error, cls), kind)
