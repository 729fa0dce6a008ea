"""Which function stands under which name."""

from __future__ import annotations

import subprocess
import sys


def test_what_torch_loads_late_is_no_change() -> None:
    """Loading the compiler, as many a plugin does, exchanges functions of torch for its own."""
    program = (
        "from bench.meters.shared.functions import changed_functions, functions_in_force\n"
        "before = functions_in_force()\n"
        "import torch._dynamo, torch._inductor, torch.distributed, torch.fx, torch.export\n"
        "print(changed_functions(before, functions_in_force()))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stdout + done.stderr
