"""Which meter runs when, over which inputs, at which operating points and batch sizes.

`schedule` has the table of meters in order, and what a new meter needs.
"""

from bench.measure.findings import Findings
from bench.measure.schedule import measure
from bench.measure.subject import Subject

__all__ = ["Findings", "Subject", "measure"]
