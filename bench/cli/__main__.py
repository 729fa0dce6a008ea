"""`python -m bench.cli`: the same as the installed command `condbench`."""

import sys

from bench.cli import main

sys.exit(main())
