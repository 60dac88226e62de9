"""The reward of the benchmark: a number that depends on the text, and costs nothing.

Written for TRL; our reward workers load it from this file. Every response of a group gets another
value, so no group is dropped for having no spread, and both sides learn from every token.
"""

from __future__ import annotations

import zlib
from typing import Any


def checksum(completions: list[Any], **_: Any) -> list[float]:
    """CRC-32 of each response's text, in [0, 1)."""
    texts = [c if isinstance(c, str) else c[0]["content"] for c in completions]
    return [zlib.crc32(text.encode()) / 2**32 for text in texts]
