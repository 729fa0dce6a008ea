"""condbench: does conditional computation pay off? The harness."""

__version__ = "0.1.0"
