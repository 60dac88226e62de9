"""The Keye reward model: one checkpoint that compares two responses, with or without reasoning.

Here are its prompt, the strict reading of its judgements, its scores, its preference data and its
evaluation; the trainers are `rl`'s (`python -m rl recipe=reward_model`).
"""
