"""A person reviews reasoning traces and ranks candidates: `python -m rl review`.

`decisions` is what importers read; it needs no user interface. Only `command` starts one.
"""
