"""Where a method pays: its speed-up over model width, tokens and batch size, from records.

cells       the measured sizes of each method
grid        which sizes to measure first and next, and what lies between measured ones
waves       trials in the order of a time budget
sentences   one sentence per method
render      map.csv, and the lines of terminal and page

`bench.report.figures.maps` draws map.png. Any run that sweeps `backbone.dim`, or the size of an
untrained task's inputs, has a map; `experiment=map` is one.
"""
