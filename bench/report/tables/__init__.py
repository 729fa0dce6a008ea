"""Records become tables of rows: pandas in, no torch."""
