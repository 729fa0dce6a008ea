"""Bytes: live tensors, parameters, and what a process keeps resident."""
