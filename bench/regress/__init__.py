"""Baseline against candidate: three comparisons, one verdict, one exit code. No torch at the top.

The three comparisons, each in its folder as `compare.py`:

    folders/      two finished runs, from their records     condbench compare DIR DIR
    revisions/    two git revisions, measured in turns      condbench compare --rev A B; nightly
    golden/       counts of untrained models, for equality  condbench compare --exact

`checkouts/` prepares the revisions: worktrees, environments, planned trials.

Read in this order: gate (interval -> judgement), verdict (judgements -> exit code), comparable
(what must be equal), quality and causes, markdown (what is printed); then one of the folders.
`nightly` adds history and `trend` draws it; `simulate` checks the gate on synthetic rounds.
"""
