"""`make energy`: studies of the energy counter of a real board."""
