"""How does a reward become a better policy? SFT, GSPO, iteration and evaluation.

Run it with ``python -m rl recipe=…`` or ``python -m rl evaluate …``.
"""
