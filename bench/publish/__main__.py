"""python -m bench.publish MODE PROJECT: the process that a Mirror feeds."""

import sys

from bench.publish.runs import serve

serve(sys.argv[1], sys.argv[2])
