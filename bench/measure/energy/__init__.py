"""Joules of a trial: training, inference, and one further token."""
