"""The file of results, to which every part of every run on the same board is added."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bench.records.record import write_json
from bench.selftest.energy.tables import markdown


class ResultFile:
    """The results so far, including those of earlier runs on the same board in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.results: dict[str, Any] = {}

    def add(self, **results: Any) -> None:
        """Write these results beside the others, in place of older ones of the same study.

        Raises LookupError if the folder holds results of another board or driver.
        """
        # The first results of a run hold the board's facts: only then earlier ones can be accepted.
        if "facts" in results:
            self.results = self._earlier(results["facts"])
        if "same_work" in results:  # rows of other window lengths stay
            rows = {row["window_s"]: row for row in self.results.get("same_work", [])}
            rows |= {row["window_s"]: row for row in results["same_work"]}
            results["same_work"] = [rows[seconds] for seconds in sorted(rows)]
        self.results |= results
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / "energy.json", self.results)
        (self.folder / "energy.md").write_text(markdown(self.results), encoding="utf-8")

    def _earlier(self, facts: dict[str, Any]) -> dict[str, Any]:
        path = self.folder / "energy.json"
        if not path.exists():
            return {}
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        for name in ("uuid", "driver"):
            if found["facts"][name] != facts[name]:
                raise LookupError(
                    f"{path} is of {name} {found['facts'][name]}, this is {facts[name]}: "
                    "choose another --out"
                )
        return found
