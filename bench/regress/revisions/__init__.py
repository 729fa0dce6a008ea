"""Running what is compared: worktrees, two revisions in turns, golden trials, a whole night."""
