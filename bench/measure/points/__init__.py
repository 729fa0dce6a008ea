"""The operating point that a user would choose, found on calibration data alone.

halves          two halves of the calibration data: fitted on one, chosen on the other
choice          which points are measured: "@ equal quality" first, then others over the range
against_dense   the quality of a point minus that of dense, sample by sample
"""
