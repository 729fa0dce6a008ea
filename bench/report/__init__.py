"""Records as tables, figures and one HTML page. Nothing in here loads torch.

    build(dirs, out)   writes the report and returns it (`condbench report`)
    frame(dirs)        every metric as a tidy pandas frame, for notebooks

The path through the folders: tables/ (records -> rows of cells -> columns -> a sheet of texts),
render/ (a sheet as text, LaTeX, CSV or HTML), figures/ (panels), and `build`, which writes them.
paper/ sets published numbers beside records.
"""

from bench.records.reading import NoRecords
from bench.report.build import Report, build
from bench.report.frame import frame

__all__ = ["NoRecords", "Report", "build", "frame"]
