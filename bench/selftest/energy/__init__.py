"""`make energy`: what the energy counter of a real board does."""
