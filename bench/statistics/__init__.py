"""Statistics: every interval that a table or verdict shows, and the verdict itself.

    intervals   medians of rounds, quantiles over inputs, means over seeds
    processes   ratios from several processes: rounds nested in processes
    verdict     what speed-up and quality together mean: one function

numpy and scipy only, no torch: reports and verdicts import this room.
"""

from bench.statistics.intervals import (
    LEVEL,
    MIN_BOOTSTRAP,
    NUM_DRAWS,
    Interval,
    interquartile_range,
    mean_interval,
    median_interval,
    min_inputs,
    num_outliers,
    paired_interval,
    quantile_interval,
    ratio_interval,
    realised_share,
    saving_realised,
)

__all__ = [
    "LEVEL",
    "MIN_BOOTSTRAP",
    "NUM_DRAWS",
    "Interval",
    "interquartile_range",
    "mean_interval",
    "median_interval",
    "min_inputs",
    "num_outliers",
    "paired_interval",
    "quantile_interval",
    "ratio_interval",
    "realised_share",
    "saving_realised",
]
