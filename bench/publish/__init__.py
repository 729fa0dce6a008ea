"""Records as W&B runs. The only room that loads wandb."""
