"""Several branches of different cost, one of them for each input."""
