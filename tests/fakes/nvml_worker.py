"""The night's worker over the stand-in driver: passes of 20 ms at WATTS on board 0, in real time.

    LD_LIBRARY_PATH=FOLDER WATTS=500 python -m tests.fakes.nvml_worker

Protocol, meter and nvidia-ml-py are real; only the workload and the NVML library are simulated.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import time
from typing import Any

from bench.regress.revisions import worker
from tests.fakes.nvml_driver import IDLE_W, Driver, uuid


def main() -> None:
    """Serve stdin as `bench.regress.revisions.worker` does, with a trial that is open already."""
    driver, watts = Driver(), float(os.environ["WATTS"])

    def run(num_passes: int) -> None:
        for _ in range(num_passes):
            driver.power(0, watts)
            time.sleep(0.02)
        driver.power(0, IDLE_W)

    class Open(worker.Worker):
        def __init__(self) -> None:
            super().__init__()
            self.device, self.works = uuid(0), {"b64": run}

    worker.Worker = Open  # type: ignore[misc]
    requests: queue.Queue[dict[str, Any]] = queue.Queue()

    def read_requests() -> None:
        for line in sys.stdin:
            requests.put(json.loads(line))
        os._exit(0)

    threading.Thread(target=read_requests, daemon=True).start()
    worker.serve(requests, lambda reply: print(json.dumps(reply), flush=True))


if __name__ == "__main__":
    main()
