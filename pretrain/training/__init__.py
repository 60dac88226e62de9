"""Distributed training: rank groups, DeepSpeed engines, resume state and load balancing."""
