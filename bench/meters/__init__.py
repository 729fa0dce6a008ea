"""Meters: one quantity per folder (FLOPs, time, memory, energy), with the unit in every name."""
