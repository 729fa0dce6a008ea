"""A short test of the meters on work with known results, about 20 s: the doctor's self-test."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator

import torch

from bench.meters.conditions import pinned_threads
from bench.meters.energy import EnergyMeter, EnergyReading, EnergyRefused
from bench.meters.energy.refusals import CounterReset, CounterStuck, DriverFailed
from bench.meters.flops.counter import count
from bench.meters.memory.tensors import measure_peak_bytes
from bench.meters.time.paired import NOISE_LIMITS, PairedTiming, compare, run_control
from bench.selftest import known_bytes, known_flops, known_ratios
from bench.selftest.finding import Finding, Status

PART = "self-test"
TRUTH = 1.05  # the known time ratio
TOLERANCE = 0.01  # of the ratio, where the noise floor is lower
ROUNDS = 20
WORKLOADS = ("mlp", "train")  # of known_bytes: one of inference, one of training
ENERGY_S = 2.0
ENERGY_BUDGET_S = (
    10.0  # no board is started after it; each takes 7 to 12 s (counters of 20 to 100 ms)
)
IDLE_S = 2.0


def self_test() -> Iterator[Finding]:
    """Known FLOPs, memory and time ratio, the A/A noise floor, energy of every GPU."""
    yield check_known_flops()
    yield check_known_peaks()
    yield from check_known_ratio()
    begun_s = time.monotonic()
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        if time.monotonic() - begun_s < ENERGY_BUDGET_S:
            yield check_energy(index)
        else:
            text = "not tested: the boards before it used up the doctor's half minute"
            yield Finding(PART, f"energy of cuda:{index}", "warning", text)


def check_known_flops() -> Finding:
    """Every case of the closed-form list is exact, or flagged as incomplete."""
    wrong, flagged = [], []
    for case in known_flops.CASES:
        module, x = case.build().eval(), torch.randn(known_flops.B, known_flops.T, known_flops.D)
        with torch.no_grad():
            found = count(module, x)
        # A flagged case is no error: this torch runs an op that has no formula yet.
        if not found.complete:
            flagged.append(case.name)
        elif found.total != case.flops:
            wrong.append(f"{case.name}: {found.total}, closed form {case.flops}")
    num = len(known_flops.CASES)
    if wrong:
        return Finding(PART, "FLOPs", "failed", "; ".join(wrong))
    text = f"{num - len(flagged)} of {num} closed forms exact" + (
        f", without a formula here: {', '.join(flagged)}" if flagged else ""
    )
    return Finding(PART, "FLOPs", "ok", text, {"exact": num - len(flagged), "flagged": flagged})


def check_known_peaks() -> Finding:
    """Peaks of live tensors are those derived by hand."""
    wrong = []
    for name in WORKLOADS:
        work = known_bytes.WORKLOADS[name]
        found = measure_peak_bytes(work.run)
        if not work.accepts(found):
            wrong.append(f"{name}: {found} bytes, derived {work.tensors}")
    if wrong:
        return Finding(PART, "memory", "failed", "; ".join(wrong))
    return Finding(PART, "memory", "ok", f"{len(WORKLOADS)} peaks exact")


def check_known_ratio() -> Iterator[Finding]:
    """The same work against itself, then against work that is 5 % longer."""
    # One thread and the same operands on both sides: only then is the ratio known.
    settings = {**known_ratios.SETTINGS, "rounds": ROUNDS}
    matrices = known_ratios.operands()
    candidate = known_ratios.busy_loop(known_ratios.PRODUCTS, matrices)
    longer = known_ratios.busy_loop(round(known_ratios.PRODUCTS * TRUTH), matrices)
    with pinned_threads(1), torch.inference_mode():
        same = run_control(candidate, [[0]], **settings)
        timed = compare(candidate, longer, [[0]], **settings)
    yield judge_noise(same)
    yield judge_ratio(timed, same.noise_floor)


def judge_noise(same: PairedTiming) -> Finding:
    """The smallest time difference that is resolved on this machine at present."""
    floor = same.noise_floor
    if floor is None:
        why = same.reason or "no interval"
        return Finding(PART, "noise floor", "warning", f"not measured: {why}")
    text = f"time differences below {floor:.2%} are not resolved at present"
    status: Status = "ok" if floor <= NOISE_LIMITS["cpu"] else "warning"
    return Finding(PART, "noise floor", status, text, {"noise_floor": floor})


def judge_ratio(timed: PairedTiming, floor: float | None) -> Finding:
    """A known ratio of 1.05: failed only where a quiet machine's interval is clearly elsewhere."""
    if timed.ratio is None or timed.ci_low is None or timed.ci_high is None or floor is None:
        why = timed.reason or "no interval"
        return Finding(PART, "time ratio", "warning", f"known {TRUTH}, not measured: {why}")
    interval = f"{timed.ratio:.3f} [{timed.ci_low:.3f}, {timed.ci_high:.3f}]"
    details = {"ratio": timed.ratio, "low": timed.ci_low, "high": timed.ci_high}
    # Without a margin a correct meter would fail in one run of twenty: intervals cover 95 %.
    reach = max(TOLERANCE, floor)
    if timed.ci_low <= TRUTH * (1 + reach) and timed.ci_high >= TRUTH * (1 - reach):
        return Finding(PART, "time ratio", "ok", f"known {TRUTH}, measured {interval}", details)
    text = f"known {TRUTH}, measured {interval}"
    if floor > NOISE_LIMITS["cpu"]:
        return Finding(PART, "time ratio", "warning", f"{text}: the machine is too noisy", details)
    return Finding(PART, "time ratio", "failed", text, details)


def check_energy(index: int) -> Finding:
    """Calibrate a GPU's energy counter and check it against its power under a steady load."""
    device, name = torch.device("cuda", index), f"energy of cuda:{index}"
    try:
        step = _products(device)
    except RuntimeError as error:  # out of memory, or another process has exclusive access
        return Finding(PART, name, "warning", f"not tested: {_first_line(error)}")
    return try_energy(name, lambda: EnergyMeter(device), step)


def _products(device: torch.device, side: int = 4096) -> Callable[[], None]:
    """A pass of 20 square products, long enough that launching is no part of the load."""
    matrix = torch.randn(side, side, device=device, dtype=torch.bfloat16)

    def step() -> None:
        for _ in range(20):
            torch.mm(matrix, matrix)

    return step


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


def try_energy(
    name: str, open_meter: Callable[[], EnergyMeter], step: Callable[[], None]
) -> Finding:
    """Measure one window under load: a faulty counter is "failed", an absent one is "no"."""
    try:
        with open_meter() as meter:
            known = meter.calibrate(IDLE_S, step)
            # 25 updates: 5 more than a window needs, for slow counters.
            reading = meter.measure(step, max(ENERGY_S, 25 * known.update_period_s))
            facts = meter.facts()
    except (CounterStuck, CounterReset, DriverFailed) as refusal:
        return Finding(PART, name, "failed", refusal.reason)
    except EnergyRefused as refusal:
        return Finding(PART, name, "no", refusal.reason)
    return judge_energy(name, reading, facts)


def judge_energy(name: str, reading: EnergyReading, facts: dict) -> Finding:
    """A counter that contradicts its own board's power fails the self-test."""
    text = (
        f"counter updates every {1e3 * reading.update_period_s:.0f} ms, idle "
        f"{reading.idle_w:.0f} W, loaded {reading.mean_power_w:.0f} W, counter / integrated power "
        f"{reading.integral_ratio or math.nan:.3f}"
    )
    if reading.reason:
        return Finding(PART, name, "failed", f"{text}: {reading.reason}", facts)
    return Finding(PART, name, "ok", text, facts)
