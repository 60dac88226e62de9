"""Seeds that are the same in every process, run and Python version."""

from __future__ import annotations

import hashlib


def stable_seed(*parts: int | str) -> int:
    """A 63-bit seed from any parts (run seed, step, sample id, response index …).

    A resumed job draws what it drew before, because nothing but the parts goes in.
    """
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
