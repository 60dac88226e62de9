"""Public benchmarks from a local directory: read as published, asked as published, scored by their
own rules. Nothing is downloaded.

Each benchmark is a class with its files, its prompt, its scoring and its sub-scores (`images.py`,
`mathvista.py`, `videos.py`); reading (`files.py`, `media.py`), answering and the table (`run.py`)
are shared.
"""
