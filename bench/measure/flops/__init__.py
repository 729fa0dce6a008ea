"""Executed FLOPs of a trial: their mean, their spread, what gates save, and second opinions."""
