"""Exits: heads inside a trunk, the elements that leave at them, and what leaving saves."""
