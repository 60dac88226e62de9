"""Alignment RL: GSPO on a mix of prompt sources, each with its own rewards."""
