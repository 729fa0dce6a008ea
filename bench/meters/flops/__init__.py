"""FLOPs: what a callable really executes; a count is complete, or names what it lacks."""
