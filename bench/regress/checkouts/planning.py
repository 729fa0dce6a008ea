"""The trials that one revision plans, as JSON.

    python -m bench.regress.checkouts.planning KEY=VALUE ...

Runs inside the revision's worktree, so that its own configuration, defaults and plugins count.
Other revisions read the output: its keys stay, and a new name of this module is added to
`worktrees.INTERFACES`.
"""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stdout

from bench.plan.matrix import PlanError, make_plan


def main(arguments: list[str]) -> int:
    """Print {"trials": [trial.json content], "left_out": [...]}; exit code 2 with the reason."""
    try:
        # A plugin that prints while it is imported must not mix with the JSON.
        with redirect_stdout(sys.stderr):
            plan = make_plan(arguments)
            trials = [trial.content() for trial in plan.trials]
    except PlanError as error:
        print(error, file=sys.stderr)
        return 2
    json.dump({"trials": trials, "left_out": plan.left_out}, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
