"""Hydra's configuration tree, installed as the package bench.conf."""
