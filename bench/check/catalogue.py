"""The contracts by name: what each promises, and the function that tries it.

Those of methods, backbones and tasks, in the order in which they are tried: `finite` first, and
after it the quick ones beside the slow.
"""

from __future__ import annotations

from bench.check import data, dense_models
from bench.check.contract import Contract
from bench.check.contracts import (
    counting,
    finite,
    flops,
    generation,
    independence,
    leakage,
    look_ahead,
    padding,
    repeatability,
    skipping,
    training,
)

CONTRACTS = (
    Contract("finite", "logits, losses and weights are finite", finite.finite, prerequisite=True),
    Contract("open_is_dense", "all gates open: the dense model", skipping.open_is_dense),
    Contract(
        "skipping_is_masking",
        "inference = training on replayed decisions",
        skipping.equals_masking,
    ),
    Contract(
        "executed_is_declared",
        "FLOPs that decisions declare are executed",
        flops.executed_is_declared,
    ),
    Contract("all_is_counted", "every product is in a counted operation", counting.all_is_counted),
    Contract("never_empty", "forced open, closed or random: no empty call", skipping.never_empty),
    Contract("alone_is_batched", "a sample alone = in a batch", independence.alone_is_batched),
    Contract("no_memory", "the same input costs the same again", leakage.no_memory),
    Contract("unseen_is_seen", "counting changes no result", leakage.unseen_is_seen),
    Contract("targets_unread", "a forward pass never reads targets", leakage.targets_unread),
    Contract("no_look_ahead", "nothing depends on later tokens", look_ahead.no_look_ahead),
    Contract("padding_ignored", "padding changes nothing", padding.padding_ignored),
    Contract("only_padding", "a sample of padding only stays finite", padding.only_padding),
    Contract("generates", "a cache changes no token, no decision", generation.generates_alike),
    Contract("gates_learn", "finite gradients, one for every gate", training.gates_learn),
    Contract(
        "skipped_learn_nothing", "no gradient through skipped parts", training.skipped_learn_nothing
    ),
    Contract("default_point", "trained, it is at the first point", repeatability.default_point),
    Contract("same_seed", "same seed, same training", repeatability.same_seed),
    Contract("round_trip", "state_dict and settings restore the model", repeatability.round_trip),
    Contract("bf16", "trains and infers under bfloat16 autocast", repeatability.bf16),
)

# Of a backbone, before those of a method that changes nothing.
BACKBONE_CONTRACTS = (
    Contract("is_a_trunk", "stem, blocks, head; logits for all outputs", dense_models.is_a_trunk),
    Contract(
        "honours_factories", "ffn=, attention=, block= are built in", dense_models.honours_factories
    ),
    *CONTRACTS,
)
TASK_CONTRACTS = (
    Contract("spec_is_data", "every split has the shapes of the spec", data.spec_is_data),
    Contract("order_is_seeded", "a seed fixes the order of a pass", data.order_is_seeded),
    Contract("splits_are_apart", "no test input is in another split", data.splits_are_apart),
    Contract("trains", "the criterion is finite and has a gradient", data.trains),
    Contract("scores", "knowing all answers beats guessing", data.scores),
    Contract("is_hashed", "the data's hash is the same every time", data.is_hashed),
    Contract("extras_fit", "declared facts have one entry per sample", data.extras_fit),
)
