"""Imported first by the fork server: what a crashed trial leaves behind becomes its child.

A trial ends what it has started when it ends itself, and its launcher what it has seen of it before
a signal. A trial that crashes does neither. Its processes then pass to the fork server, whichever
sessions they are in, where the launcher finds and ends them (`bench.launch.lifetime`).
"""

from __future__ import annotations

import sys
import warnings

from bench.launch.lifetime import adopt_descendants

NAME = __name__
SERVER = "multiprocessing.forkserver"  # in the command line of the fork server

# This module is a preload of the fork server, which gives no other way in. Imported by any other
# program it must not change it.
if any(SERVER in word for word in sys.orig_argv):
    adopt_descendants()
    # It waits for all of its children, and warns of those that it has not started.
    warnings.filterwarnings("ignore", "forkserver: waitpid returned unexpected pid")
