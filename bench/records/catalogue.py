"""The metric catalogue: every metric of a record in one line.

    SPEEDUP.at(64)                      "infer/speedup_b64": how other code builds a key
    SPEEDUP.match("infer/speedup_b64")  ("64",); None for another metric's key
    find("infer/speedup_b64")           SPEEDUP; None for a key that is not in the catalogue

A new metric is one line, and so is its column: the report takes header, unit, place and order of
its columns from here. `bench.records.entry` explains the fields.
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import lru_cache, partial

from bench.records.entry import Entry, Quantity, SeedMean, Shown

SCORE, DIFFERENCE = Quantity(""), Quantity("", even=0.0)
COUNT, FLOP, MAC, WATT = (Quantity(unit, 0) for unit in ("count", "flop", "mac", "w"))
BYTES, MS, JOULE, RATE = (
    Quantity(unit, 0, includes_low=False) for unit in ("bytes", "ms", "j", "samples/s")
)
PART_BYTES = Quantity("bytes", 0)  # of training: a part, such as buffers, may be empty
SECONDS, NAT = Quantity("s", 0), Quantity("nat")
RATIO = Quantity("1", 0, includes_low=False, even=1.0)  # to dense; above 1 is better
FACTOR = Quantity("1", 0, includes_low=False)  # any other quotient
OF_DENSE = Quantity("1", 0)  # a share of what dense has; may exceed 1
SHARE = Quantity("1", 0, 1)
SIGNED = Quantity("1")

TERMINAL, TERMINAL_IF = Shown.TERMINAL, Shown.TERMINAL_IF
TABLE, TABLE_IF, TAILS, ROBUST = Shown.TABLE, Shown.TABLE_IF, Shown.TAILS, Shown.ROBUSTNESS
FIGURE, REMARK, BELOW, CSV = Shown.FIGURE, Shown.REMARK, Shown.BELOW, Shown.CSV
INTERVAL, LOGS = SeedMean.INTERVAL, SeedMean.LOGS

# What the metrics of one meter have in common.
_model = partial(Entry, over="the model", points="default")
_quality = partial(Entry, over="the test split", points="all")
_first = partial(Entry, over="the first input", points="default")
_alone = partial(Entry, over="each input alone", points="all")
_counted = partial(Entry, over="a batch", points="all")
_timed = partial(Entry, over="a batch", points="timed")
_latency = partial(Entry, over="each input alone", points="timed")
_batch = partial(Entry, over="a batch", points="default")
_prompt = partial(Entry, over="the first token", points="default")
_token = partial(Entry, over="a further token", points="default")
_process = partial(Entry, over="a process", points="default")
_window = partial(Entry, over="the largest batch", points="timed")
_saving = partial(Entry, over="the largest batch", points="default")
_under = partial(Entry, over="samples in one condition", points="default")
_step = partial(Entry, over="a training step", points="default")
_train = partial(Entry, over="the training", points="default")


def _variant(entry: Entry, name: str) -> Entry:
    """The same quantity of something else: `infer/module_energy_ratio`. Never a column."""
    key, title = entry.key.replace("/", f"/{name}_"), f"{name}: {entry.title}"
    shown = entry.shown if entry.shown is ROBUST else CSV
    return replace(entry, key=key, title=title, shown=shown, seed_mean=SeedMean.PLAIN)


# In the order of the columns.
PARAMS = _model("model/params", COUNT, "params", TABLE)
ACTIVE_PARAMS = _model("model/active_params_per_sample", COUNT, "active params", TABLE_IF)

# The task names unit and further scores; a record of digits has `infer/quality` in accuracy %.
QUALITY = _quality("infer/quality", SCORE, "quality", TERMINAL, INTERVAL)
FURTHER_QUALITY = _quality("infer/quality_{score}", SCORE, "{score}", TABLE, INTERVAL)
# Paired sample by sample, with its interval over the originals that test samples are made from.
QUALITY_VS_DENSE = _quality(
    "infer/quality_vs_dense", DIFFERENCE, "quality minus dense", TABLE_IF, INTERVAL
)

# Executed FLOPs of each input alone and in batches; other counters of one input beside them.
FLOPS = _alone("infer/flops_per_sample", FLOP, "FLOPs per sample", TABLE)
MACS_FVCORE = _first("infer/macs_fvcore", MAC, "MACs per sample by fvcore", TABLE_IF)
FLOPS_SHARE = _alone("infer/flops_share", OF_DENSE, "FLOPs, % of dense", TERMINAL)
FLOPS_BATCHED = _counted("infer/flops_per_sample_b{B}", FLOP, "FLOPs per sample, batch {B}")
TAU = _counted("infer/tau_b{B}", FACTOR, "FLOP ratio, batch {B}", FIGURE)
DECLARED_FLOPS = _alone("infer/declared_flops_per_sample", FLOP, "FLOPs per sample, as declared")
REGION_FLOPS = _alone("infer/flops_{region}", FLOP, "FLOPs of region {region}")
UNKNOWN_OPS = _alone("infer/num_unknown_ops", COUNT, "ops without a formula")
POINTWISE_ELEMS = _alone("infer/pointwise_elems", COUNT, "elements written by elementwise ops")
BYTES_TOUCHED = _alone("infer/bytes_touched", BYTES, "bytes read and written")
FLOPS_PROFILER = _first("infer/flops_profiler", FLOP, "FLOPs by torch.profiler")
# Against open gates, as shares of the dense FLOPs: how a method that only masks is found.
DECLARED_SAVING = _saving("infer/declared_saving", SIGNED, "declared saving of FLOPs", REMARK)
EXECUTED_SAVING = _saving("infer/executed_saving", SIGNED, "executed saving of FLOPs", REMARK)
CLOSED_SHARE = _saving("infer/flops_share_closed", OF_DENSE, "FLOPs with closed gates", REMARK)

# Time, paired with dense in several processes; the noise floor: dense against its twin.
SPEEDUP = _timed("infer/speedup_b{B}", RATIO, "speed-up, batch {B}", TERMINAL, LOGS)
REALISED = _timed("infer/realised_b{B}", FACTOR, "realised, batch {B}", TERMINAL, LOGS)
SAVING_REALISED = _timed("infer/saving_realised_b{B}", SIGNED, "realised saving, batch {B}")
NOISE_FLOOR = _timed("infer/noise_floor_b{B}", OF_DENSE, "timing noise, batch {B}", TAILS)
PROCESS_SD = _timed("infer/process_sd_b{B}", OF_DENSE, "spread of processes, batch {B}")
DEVICE_SHARE = _timed("infer/device_time_share_b{B}", OF_DENSE, "device busy, batch {B}")
REGION_TIME = _timed("infer/time_share_{region}_b{B}", SHARE, "time in {region}, batch {B}")
# The parts of a pass, in order, each over the time of dense's pass: they sum to 1 / speed-up.
IDEAL_TIME = _timed("infer/pass_ideal_b{B}", OF_DENSE, "dense time / FLOP ratio, batch {B}", FIGURE)
ROUTING_TIME = _timed("infer/pass_routing_b{B}", SIGNED, "time of routing, batch {B}", FIGURE)
PRODUCT_TIME = _timed("infer/pass_products_b{B}", SIGNED, "slower products, batch {B}", FIGURE)
OTHER_TIME = _timed("infer/pass_rest_b{B}", SIGNED, "rest of the pass, batch {B}", FIGURE)

# Of measure.workload=generate only: to the first token, and per further token.
TTFT = _prompt("infer/ttft_ms_b{B}", MS, "TTFT, batch {B}", TABLE, INTERVAL)
TTFT_SPEEDUP = _prompt("infer/ttft_speedup_b{B}", RATIO, "TTFT speed-up, batch {B}", TABLE, LOGS)
TPOT = _token("infer/tpot_ms_b{B}", MS, "TPOT, batch {B}", TERMINAL, INTERVAL)
TPOT_SPEEDUP = _token("infer/tpot_speedup_b{B}", RATIO, "TPOT speed-up, batch {B}", TABLE, LOGS)
FIRST_FLOPS = _prompt("infer/flops_first_token_b{B}", FLOP, "FLOPs to the first token, batch {B}")
TOKEN_FLOPS = _token("infer/flops_per_output_token_b{B}", FLOP, "FLOPs per token, batch {B}", TABLE)
TOKEN_BYTES = _token(
    "infer/bytes_per_output_token_b{B}", BYTES, "memory per token, batch {B}", TABLE
)
TOKEN_ENERGY = _token("infer/energy_j_per_output_token", JOULE, "energy per token", TABLE, INTERVAL)
CPU_TOKEN_ENERGY = _token(
    "infer/cpu_energy_j_per_output_token", JOULE, "CPU energy per token", TABLE_IF, INTERVAL
)
GENERATED_INPUTS = _batch("infer/num_generated_inputs", COUNT, "prompts", BELOW)
PROMPT_TOKENS = _batch("infer/num_prompt_tokens", COUNT, "tokens of a prompt", BELOW)
OUTPUT_TOKENS = _batch("infer/num_output_tokens", COUNT, "tokens generated", BELOW)

# Peaks of live tensors, and of the whole process in a child of its own.
PEAK_BYTES = _batch("infer/peak_tensor_bytes_b{B}", BYTES, "memory, batch {B}", TERMINAL)
PEAK_RSS = _process("infer/peak_rss_bytes", BYTES, "process memory", TABLE_IF)
TRAIN_PEAK_BYTES = _step("train/peak_tensor_bytes", PART_BYTES, "training memory", TABLE)
WARM_RSS = _process("infer/rss_after_warmup_bytes", BYTES, "memory of the process, warmed up")
RESERVED_BYTES = _batch("infer/reserved_bytes_b{B}", BYTES, "memory reserved, batch {B}")
DEVICE_BYTES = _batch("infer/device_used_bytes_b{B}", BYTES, "device memory used, batch {B}")
LARGEST_BATCH = _model("infer/largest_batch", COUNT, "largest batch that fits the GPU")
TRAIN_PART_BYTES = _step("train/{part}_bytes", PART_BYTES, "training memory of {part}")

# GPU energy is of whole boards, CPU energy of whole packages: they are never added up.
ENERGY = _window("infer/energy_j_per_sample", JOULE, "energy per sample", TERMINAL, INTERVAL)
ENERGY_RATIO = _window("infer/energy_ratio", RATIO, "energy ratio", TABLE_IF, LOGS)
CPU_ENERGY = _window(
    "infer/cpu_energy_j_per_sample", JOULE, "CPU energy per sample", TERMINAL_IF, INTERVAL
)
CPU_NET_ENERGY = _window(
    "infer/cpu_energy_net_j_per_sample", JOULE, "CPU energy above idle per sample"
)
TRAIN_ENERGY = _train("train/energy_j", JOULE, "training energy", TABLE_IF, INTERVAL)
NET_ENERGY = _window("infer/energy_net_j_per_sample", JOULE, "energy above idle per sample")
MEAN_POWER = _window("infer/energy_mean_power_w", WATT, "mean power")
IDLE_POWER = _window("infer/energy_idle_power_w", WATT, "idle power")
COUNTER_RATIO = _window("infer/energy_counter_ratio", FACTOR, "polled power / energy counter")
POWER_LIMIT = _window("infer/energy_power_limit_w", WATT, "power limit")
TRAIN_CPU_ENERGY = _train("train/cpu_energy_j", JOULE, "training energy of the CPU")
TRAIN_NET_ENERGY = _train("train/energy_net_j", JOULE, "training energy above idle")
TRAIN_MEAN_POWER = _train("train/energy_mean_power_w", WATT, "mean power of training")
TRAIN_IDLE_POWER = _train("train/energy_idle_power_w", WATT, "idle power before training")

# Training; a dense pre-training is a cost of its own, shared by all methods that start from it.
TRAIN_TIME = _train("train/time_s", SECONDS, "training time", TERMINAL)
DENSE_TIME = _train("train/dense_time_s", SECONDS, "dense pre-training needed", TABLE_IF)
TRAIN_STEPS = _train("train/num_steps", COUNT, "training steps", BELOW)
TRAIN_LOSS = _train("train/loss", NAT, "last training loss")
TRAIN_FLOPS = _step("train/flops_per_step", FLOP, "FLOPs of a training step")
TRAIN_TOTAL = _train("train/flops", FLOP, "training FLOPs, dense start included")

# Spread over inputs: the second table of the page.
LATENCY = _latency("infer/latency_ms_p{P}", MS, "latency p{P}, batch 1", TAILS)
THROUGHPUT = _timed("infer/throughput_b{B}", RATE, "throughput, batch {B}", TAILS)
MEAN_LATENCY = _latency("infer/latency_ms_mean", MS, "latency mean, batch 1")
FLOPS_PERCENTILE = _alone("infer/flops_per_sample_p{P}", FLOP, "FLOPs per sample, p{P}", TAILS)
MAX_FLOPS = _alone("infer/flops_per_sample_max", FLOP, "FLOPs per sample, max", TAILS)
CAUSAL_FLOPS = _alone("infer/flops_causal", FLOP, "FLOPs per sample, causal", TAILS)
FLOPS_INPUTS = _alone("infer/num_flops_inputs", COUNT, "inputs whose FLOPs were counted")

# measure.robustness=true: method and dense model on the same corrupted inputs.
QUALITY_UNDER = _under("infer/quality_{condition}", SCORE, "quality, {condition}", ROBUST, INTERVAL)
FLOPS_UNDER = _under("infer/flops_per_sample_{condition}", FLOP, "FLOPs, {condition}", ROBUST)
CONFIDENCE_UNDER = _under("infer/confidence_{condition}", SHARE, "confidence, {condition}", ROBUST)
DENSE_QUALITY_UNDER, DENSE_FLOPS_UNDER, DENSE_CONFIDENCE_UNDER = (
    _variant(each, "dense") for each in (QUALITY_UNDER, FLOPS_UNDER, CONFIDENCE_UNDER)
)
ROBUST_SAMPLES = _under("infer/num_robustness_samples", COUNT, "samples per condition", BELOW)
UNSEEN_SAMPLES = _under("infer/num_unseen_samples", COUNT, "samples of an unseen kind", BELOW)

_of_a_board = (ENERGY, NET_ENERGY, ENERGY_RATIO, COUNTER_RATIO, MEAN_POWER, IDLE_POWER, POWER_LIMIT)
# Of a whole module, where the GPU's own energy cannot be read.
MODULE_ENERGY = tuple(_variant(each, "module") for each in _of_a_board)
ENTRIES = (*(each for each in vars().values() if isinstance(each, Entry)), *MODULE_ENERGY)


@lru_cache(maxsize=4096)  # a report looks up the same few hundred keys for every row
def find(key: str) -> Entry | None:
    """The entry that `key` belongs to; None where the catalogue has none."""
    return next((entry for entry in ENTRIES if entry.match(key) is not None), None)


def module_key(entry: Entry) -> str:
    """The key of an energy metric where only a whole module can be read."""
    return _variant(entry, "module").key


def quality_key(name: str) -> str:
    """The key of a task's further score: `infer/quality_bleu` for "BLEU"."""
    return FURTHER_QUALITY.at(re.sub(r"\W+", "_", name.lower()))
