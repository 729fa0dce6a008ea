"""From a command line to trial folders: compose, expand the matrix, key, what is done or stale."""
