"""Golden trials: every method's counts with seeded untrained weights, compared for equality.

Read in this order: compare (which trials, what is printed), trial (how one is counted), records
(the files below results/baseline).
"""
