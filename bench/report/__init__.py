"""Reading records and showing them: tables, figures, one HTML page. No torch anywhere in here.

    build(dirs, out)   writes the report and returns it (`condbench report`)
    frame(dirs)        every metric as a tidy pandas frame, for notebooks

The path through the rooms: reading -> rows (of cells) -> columns and legend -> text, latex, wide,
page and figures (of panels) -> build.
"""

from bench.records.reading import NothingToReport
from bench.report.build import Report, build
from bench.report.frame import frame

__all__ = ["NothingToReport", "Report", "build", "frame"]
