"""Two git revisions made ready to run: checked out, with an interpreter each, and their plans.

Read in this order: worktrees (the whole), environments (what runs a revision), planned_trials (the
trials that a revision plans). `planning` runs inside a worktree and prints them.
"""
