"""How the table of meters is run: one trial's state, a meter, a stage, and the loop over points.

Run      what meters share: subject, inputs, dense model, and the findings so far
Meter    one row of the table
Stage    rows that run together, once or at each operating point
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
from torch import nn

from bench.measure.findings import DEFAULT, Findings, Part, merge
from bench.measure.flops.cost import DenseCost
from bench.measure.generation import as_workload
from bench.measure.inputs import choose_inputs, further_inputs
from bench.measure.judged import Judged
from bench.measure.plausibility import Facts
from bench.measure.points.against_dense import score_dense
from bench.measure.points.choice import Choice, choose_points
from bench.measure.resident import Resident
from bench.measure.subject import Metrics, OnPhase, Subject
from bench.meters.shared.state import SharedState
from bench.meters.time.replicas import Replicas
from bench.records.record import PointResult
from bench.types import Batch, Point, Quality


class Run:
    """One trial while it is measured. Each meter gets it and reads what it needs.

    `baseline`, `dense` and `facts` do not exist before the dense model is built: a row of the table
    that stands too early fails at once. `number` is that of the operating point that is set.
    """

    baseline: nn.Module  # the dense model, called as the workload calls the subject
    dense: DenseCost  # its FLOPs over the same inputs
    facts: Facts  # what the gates of plausibility compare with

    def __init__(
        self, subject: Subject, on_phase: OnPhase, training: Metrics, replicas: Replicas | None
    ) -> None:
        self.shared = SharedState()  # first: as it is before the model's first pass
        self.on_phase = on_phase
        self.dense_scores = None if subject.is_dense else score_dense(subject)
        self._choose(subject)
        self.trained = subject  # as the task calls it
        self.subject = as_workload(subject)  # as the meters call it
        self.training = training
        self.replicas = replicas  # processes that time; None: this one does
        self.points: list[Point] = subject.points()  # once: a hook may build a new list each time
        self.number = DEFAULT
        self.blind = not subject.method.flags.reads_targets
        config = self.subject.config  # of the workload: a generation uses fewer inputs
        self.inputs = choose_inputs(
            subject.task, config.num_inputs, config.batch_sizes, subject.device, blind=self.blind
        )
        self.judged = Judged()  # at the default point, which is evaluated first
        # Starts its child at once: it measures while this process evaluates quality.
        self.resident = None if config.ratios_only else Resident(self.subject, self.inputs)
        self.findings = Findings(
            points=[PointResult(settings=dict(point), metrics={}) for point in self.points]
        )
        if self.choice is not None:
            self.findings.diagnostics["operating_points"] = self.choice.entry()

    def _choose(self, subject: Subject) -> None:
        """Choose the points to measure, and set the first of them."""
        self.choice: Choice | None = None
        if self.dense_scores is None:
            return
        self.on_phase("choose", 0.0)
        self.choice = choose_points(
            subject, self.dense_scores.choosing, lambda share: self.on_phase("choose", share)
        )
        subject.chosen = self.choice.points
        set_point = subject.method.hooks.set_point
        if set_point is not None and self.choice.points[0]:
            set_point(subject.model, self.choice.points[0])

    def compare(self, quality: Quality) -> Metrics:
        """What a quality on the test split is beside dense's; {} for dense itself."""
        return {} if self.dense_scores is None else self.dense_scores.compare(quality)

    @property
    def point(self) -> Point:
        """The operating point that is set."""
        return self.points[self.number]

    @property
    def metrics(self) -> Metrics:
        """What has been measured at the operating point that is set."""
        return self.findings.points[self.number].metrics

    def raw(self, name: str) -> np.ndarray:
        """The raw vector `name` of the operating point that is set."""
        return self.findings.raw[f"{name}_point{self.number}"]

    def further_inputs(self) -> list[Batch]:
        """More inputs for the distribution of FLOPs, at the default point.

        A generation is many calls and gets none.
        """
        config = self.subject.config
        if self.number != DEFAULT or config.workload != "forward":
            return []
        task, device = self.subject.task, self.subject.device
        return further_inputs(task, config.num_inputs, device, blind=self.blind)


def always(run: Run) -> bool:
    """At every operating point."""
    return True


@dataclass(frozen=True)
class Meter:
    """One row of the table.

    Where `when` is false, `otherwise` gives the missing metrics. A `phase` is reported
    before the meter begins; without one it belongs to the phase of the row above.
    """

    measure: Callable[[Run], Part]
    phase: str = ""
    when: Callable[[Run], bool] = always
    otherwise: Callable[[Run], Part] = lambda run: Part()


@dataclass(frozen=True)
class Stage:
    """Meters that run one after the other: once per trial, or at each operating point.

    `first` runs before the meters; `then` after them, at each point where they ran.
    """

    at_each_point: bool
    meters: Sequence[Meter]
    first: Callable[[Run], None] = lambda run: None
    then: Callable[[Run], None] = lambda run: None

    def run(self, run: Run) -> None:
        """Run the meters and merge what they find into `run.findings`."""
        self.first(run)
        for number in range(len(run.points)) if self.at_each_point else [DEFAULT]:
            run.number = number
            # The default point is set outside of stages, also when they run once.
            with run.subject.at(run.point) if self.at_each_point else nullcontext():
                for meter in self.meters:
                    self._run_meter(meter, run)
            self.then(run)
        run.number = DEFAULT

    def _run_meter(self, meter: Meter, run: Run) -> None:
        point = run.number if self.at_each_point else None
        if not meter.when(run):
            merge(run.findings, meter.otherwise(run), point)
            return
        if meter.phase:
            run.on_phase(meter.phase, run.number / len(run.points))
        merge(run.findings, meter.measure(run), point)
