"""How does a response become a number? Rules, composition, a generative judge.

Importing this package must stay free of torch, transformers, vllm and ray: reward workers
import it, and a worker has to start in a fraction of a second (`tests/rewards/test_worker.py`
checks it).
"""
