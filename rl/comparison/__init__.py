"""Two checkpoints side by side, one by marks, and the stages of runs in a table."""
