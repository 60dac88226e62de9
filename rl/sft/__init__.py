"""Supervised fine-tuning: the trainer that every stage uses, and the stage before preferences."""
