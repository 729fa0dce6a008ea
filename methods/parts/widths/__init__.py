"""Narrow networks inside a trunk: the first channels of every layer."""
