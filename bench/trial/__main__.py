"""python -m bench.trial FOLDER: run one trial by hand."""

import sys

from bench.trial.run import main

sys.exit(main())
