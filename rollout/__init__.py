"""How a prompt becomes responses: vLLM engines, weight updates, progressive hints, generation.

Token ids are the truth here and text is a view: an engine is given ids and returns ids, and nothing
between engine and learner is ever tokenised again.
"""
