"""The contracts: each module tries those about one thing."""
