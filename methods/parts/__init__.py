"""Helpers that several methods share; no method of its own.

    gates           from logits to decisions with a gradient
    budget          the penalty on allocated compute
    dispatch        moving rows to what runs them, and back
    grouped_gemm    one product for sorted rows and a stack of weights
    expert_layers   router and stacked experts
    clusters        neurons in blocks of similar ones
    exit_model      a trunk with exit heads
    exit_costs      the FLOPs that its decisions declare
    exit_thresholds confidence thresholds for a budget
    live_tokens     running the tokens that have not left, which still see the others
    running_tokens  running tokens that see one another only
    block_gates     a block with gates for tokens, heads and halves, and block_gate_costs
    elements        tokens or samples that compute is allocated to (allocation)
    keywords        which symbols are keywords
    halting         adaptive computation time of tokens
    class_token     the token that always runs
    token_predictor scores of tokens, and the highest of them
    shifts          the shift of all logits that meets a compute budget
    priced_choice   one of several alternatives for each sample, at a price for a budget
    trunk_views     a second tree of modules over the same parameters
    image_sizes     a trunk on smaller images
    narrow_trunk    the narrow networks inside a trunk, made of sliced_layers
    mixed_layers    weights mixed anew for every sample
    sparse/         sparse weights and activations: masks, packed matrices, thresholds, products
    speculation     a trunk that drafts with its first blocks

What one method alone needs stays in that method's file until a second one needs it, or until the
file has a second job: slim_model and width_costs of slimmable; cascade_model, policy_model and
feature_reuse of resolution.
"""
