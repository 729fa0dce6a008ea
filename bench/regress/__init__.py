"""Baseline against candidate: from records and paired rounds to one verdict. No torch in here."""
