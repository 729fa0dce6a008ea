"""Which meter runs when: the table of meters, in order.

A row has a meter, what it reads, its phase, and when it runs. A new meter needs three things:

    bench/meters/...             the meter: one quantity, its unit in every name
    bench/records/catalogue.py   a line with its key, unit and column
    SCHEDULE                     a row: `Meter(lambda run: number(ENTRY, meter(run.subject.model)))`

A meter with several metrics or with reasons of its own gets a function that returns a `Part`, as
`measure_footprint` does.

The order is a part of the measurement. The resident child starts first and is waited for before
anything is timed. Memory is measured before the dense model exists in this process. Energy comes
after time: its windows heat the machine. Probes never run inside a timed region.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

from bench.measure.blind import method_notes
from bench.measure.comparison import add_dense_model
from bench.measure.diagnostics.deployability import measure_deployability
from bench.measure.diagnostics.routing import measure_routing
from bench.measure.diagnostics.speculation import measure_speculation
from bench.measure.diagnostics.training import measure_published_training
from bench.measure.energy.inference import measure_energy, without_energy
from bench.measure.findings import DEFAULT, Findings, Part
from bench.measure.flops.cost import measure_cost
from bench.measure.flops.crosscheck import measure_crosscheck, measure_declared_excess
from bench.measure.flops.distribution import measure_distribution
from bench.measure.flops.judged import measure_judged
from bench.measure.flops.precision import measure_precision
from bench.measure.flops.saving import measure_saving
from bench.measure.footprint import measure_footprint
from bench.measure.generation import without_generating
from bench.measure.latency import measure_latency, measure_time_shares
from bench.measure.quality.judge import measure_quality
from bench.measure.quality.robustness import measure_robustness
from bench.measure.run import Meter, Run, Stage
from bench.measure.speed import measure_speed, without_speed
from bench.measure.subject import Metrics, OnPhase, Subject
from bench.measure.time_parts import measure_time_parts
from bench.measure.tokens import measure_generation
from bench.measure.withholding import conclude, withhold_implausible
from bench.meters.time.canary import measure_canary_s
from bench.meters.time.replicas import Replicas, open_replicas
from bench.records.catalogue import FLOPS


def at_default(run: Run) -> bool:
    """At the default operating point."""
    return run.number == DEFAULT


def if_timed(run: Run) -> bool:
    """At the default operating point, with measure.all_points at all of them."""
    return at_default(run) or run.subject.config.all_points


def if_generating(run: Run) -> bool:
    """With workload=generate."""
    return run.subject.config.workload == "generate"


def if_robustness(run: Run) -> bool:
    """With measure.robustness=true."""
    return run.subject.config.robustness


def diagnostic(name: str, entry: Any) -> Part:
    """One entry of the diagnostics."""
    return Part(diagnostics={name: entry})


ONCE, EACH_POINT = False, True

# Stages and rows that both tables share. `run.subject` is the model as the workload calls it,
# `run.trained` as its task does.
QUALITY = Stage(
    EACH_POINT,
    [
        Meter(
            lambda run: measure_quality(run.trained, run.point, run.judged, run.compare),
            "evaluate",
        )
    ],
)
# The crosscheck gives facts that the numbers of every point are held against.
FACTS = (
    Meter(lambda run: Part(notes=method_notes(run.trained.method.flags))),
    Meter(lambda run: Part(notes=[run.trained.forced.note] if run.trained.forced else [])),
    Meter(lambda run: measure_crosscheck(run.subject, run.inputs)),
)
COST = Meter(lambda run: measure_cost(run.subject, run.inputs, run.dense), "flops")
SPEED = Meter(
    lambda run: measure_speed(run.subject, run.baseline, run.inputs, run.metrics, run.replicas),
    "time",
    when=if_timed,
    otherwise=lambda run: without_speed(run.subject),
)

SCHEDULE = (
    # Quality first: the resident child computes beside it, and nothing here is timed.
    QUALITY,
    # Memory while the method's model is alone in this process.
    Stage(
        ONCE,
        [
            Meter(lambda run: measure_footprint(run.subject, run.inputs), "memory"),
            *FACTS,
            Meter(lambda run: measure_judged(run.trained, run.judged)),
            # The child would share the cores with what is timed, so the trial waits here.
            Meter(lambda run: run.resident.wait() if run.resident else Part()),
        ],
    ),
    # From here on the dense model is in this process. FLOPs and time of one point together: a
    # ratio of times and the ratio of FLOPs that it is compared with have the same setting.
    Stage(
        EACH_POINT,
        [
            COST,
            Meter(
                lambda run: measure_distribution(
                    run.subject,
                    run.raw("flops"),
                    run.metrics[FLOPS.at()].reason,
                    run.further_inputs(),
                )
            ),
            Meter(
                lambda run: measure_precision(run.subject, run.baseline, run.inputs),
                when=at_default,
            ),
            # Passes with forced gates: the default point is enough to see whether gates skip.
            Meter(lambda run: measure_saving(run.subject, run.inputs, run.dense), when=at_default),
            SPEED,
            Meter(lambda run: measure_latency(run.subject, run.inputs), when=if_timed),
            Meter(lambda run: measure_time_shares(run.subject, run.inputs), when=if_timed),
            # After both, which it scales and sums up.
            Meter(
                lambda run: measure_time_parts(run.subject, run.baseline, run.inputs, run.metrics),
                when=if_timed,
            ),
        ],
        first=add_dense_model,
        then=withhold_implausible,
    ),
    # After all timing, because its windows of seconds heat the machine.
    Stage(
        EACH_POINT,
        [
            Meter(
                lambda run: measure_energy(run.subject, run.baseline, run.inputs, run.point),
                "energy",
                when=if_timed,
                otherwise=lambda run: without_energy(run.subject),
            )
        ],
        then=withhold_implausible,  # before energy per token, which subtracts shown values only
    ),
    # Only on request.
    Stage(
        ONCE,
        [
            Meter(
                lambda run: measure_generation(run.subject, run.baseline, run.inputs, run.metrics),
                when=if_generating,
            ),
            # By the task's own evaluation, also where the workload generates.
            Meter(
                lambda run: measure_robustness(run.trained, without_generating(run.baseline)),
                when=if_robustness,
            ),
        ],
        then=conclude,
    ),
    # The numbers are final: diagnostics read them and change none.
    Stage(
        ONCE,
        [
            Meter(lambda run: measure_declared_excess(run.findings.metrics)),
            Meter(
                lambda run: diagnostic(
                    "routing",
                    measure_routing(
                        run.trained, run.inputs, run.raw("flops"), run.findings.metrics
                    ),
                )
            ),
            Meter(
                lambda run: diagnostic(
                    "deployability", measure_deployability(run.trained, run.inputs)
                )
            ),
            Meter(
                lambda run: measure_published_training(
                    run.trained, run.findings.metrics, run.dense.per_sample[1]
                ),
                when=lambda run: run.trained.method.hooks.training_flops is not None,
            ),
            Meter(
                lambda run: measure_speculation(run.subject, run.inputs, run.findings.metrics),
                when=if_generating,
            ),
            # When records are compared, it separates a changed machine from changed code.
            Meter(lambda run: diagnostic("canary_s", measure_canary_s(run.subject.device))),
        ],
    ),
)

# With measure.ratios_only: a map has hundreds of trials, and each needs two numbers.
RATIOS_ONLY = (
    QUALITY,
    Stage(ONCE, FACTS),
    Stage(EACH_POINT, [COST, SPEED], first=add_dense_model, then=withhold_implausible),
    Stage(ONCE, [], then=conclude),
)


def measure(subject: Subject, on_phase: OnPhase, training: Metrics | None = None) -> Findings:
    """Run every meter on `subject`; `on_phase(phase, share)` gets the progress.

    `training` holds what training cost: it is checked with the rest and joins the findings.
    """
    with _replicas(subject.config.processes) as replicas:
        run = Run(subject, on_phase, training or {}, replicas)
        for stage in RATIOS_ONLY if subject.config.ratios_only else SCHEDULE:
            stage.run(run)
    return run.findings


def _replicas(num_processes: int) -> AbstractContextManager[Replicas | None]:
    """The processes that time; none where one is enough."""
    return open_replicas(num_processes) if num_processes > 1 else nullcontext()
