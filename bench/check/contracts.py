"""The contracts by name: what each promises, and the function that tries it."""

from __future__ import annotations

from bench.check import generating, independence, knowledge, learning, skipping, spending
from bench.check.promise import Broken, Contract, NotDefined

__all__ = ["CONTRACTS", "Broken", "Contract", "NotDefined"]

CONTRACTS = (
    Contract("open_is_dense", "all gates open: the dense model", skipping.open_is_dense),
    Contract(
        "skipping_is_masking", "inference = training on replayed decisions", skipping.is_masking
    ),
    Contract(
        "executed_is_declared",
        "what decisions say they cost is what is executed",
        spending.executed_is_declared,
    ),
    Contract("never_empty", "forced open, closed or random: no empty call", skipping.never_empty),
    Contract("alone_is_batched", "a sample alone = in a batch", independence.alone_is_batched),
    Contract("no_memory", "the same input costs the same again", knowledge.no_memory),
    Contract("unseen_is_seen", "counting changes no answer", knowledge.unseen_is_seen),
    Contract("targets_unread", "a forward pass never reads targets", knowledge.targets_unread),
    Contract("no_look_ahead", "nothing depends on later tokens", independence.no_look_ahead),
    Contract("padding_ignored", "padding changes nothing", independence.padding_ignored),
    Contract("generates", "a cache changes no token, no decision", generating.generates_alike),
    Contract("gates_learn", "finite gradients, one for every gate", learning.gates_learn),
    Contract(
        "skipped_learn_nothing", "no gradient through skipped parts", learning.skipped_learn_nothing
    ),
    Contract("same_seed", "same seed, same training", learning.same_seed),
    Contract("round_trip", "state_dict and settings restore the model", learning.round_trip),
    Contract("bf16", "trains and answers under bfloat16 autocast", learning.bf16),
)
