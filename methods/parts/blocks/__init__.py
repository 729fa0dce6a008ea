"""Gates of whole blocks and of their tokens, heads and halves."""
