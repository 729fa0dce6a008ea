"""Fewer tokens: reducing them, scoring them, and running blocks on those that are left."""
