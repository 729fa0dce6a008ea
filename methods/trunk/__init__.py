"""Building blocks of dense models: stem, blocks, head, and the state between them.

    trunk               Trunk: a dense model; swap: replace layers of a built one
    state               State: x and what belongs to its rows and tokens
    stem, head          from a batch to a state, from a state to logits
    block               a transformer block in two halves, mix and feed
    attention           multi-head attention, with cache, packed tokens and views
    feedforward         feed-forward layers, plain and gated
    positions           learned, sinusoidal and rotary positions
    transformer_parts   all parts of one transformer, dense or replaced by a method
    selection           ragged token choices: gathered, packed, put back
    cache, decoding     keys and values of earlier tokens; greedy generation
    conv, inverted      convolutional trunks, and inverted bottlenecks
    costs               FLOPs of layers, from weights or shapes

What two backbone families share goes here; nothing here decides anything.
"""
