"""Published numbers, and what a count of ours says about each: standard library only.

    rows         conf/experiment/paper/published.csv, one published number per row
    arithmetic   from the metrics of a record to the quantity that was published
    verdict      REPRODUCED, CLOSE, OFF or NOT COMPARABLE

`bench.plan` makes the trials that the rows of a paper experiment need, `bench.report.paper` finds
their records and writes the table.
"""
