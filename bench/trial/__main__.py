"""python -m bench.trial FOLDER: what the launcher, torchrun and a person call."""

import sys

from bench.trial.run import main

sys.exit(main())
