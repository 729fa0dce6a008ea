"""Golden trials: every method's counts with seeded weights, compared for equality."""
