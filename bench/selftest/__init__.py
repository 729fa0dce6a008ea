"""`condbench doctor`: what this machine can measure, what not and why, and a self-test."""
