"""FLOPs: what a callable really executes, complete or flagged."""
