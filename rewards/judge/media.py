"""Media in the form of OpenAI's interface, for judges and writers that can see."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pretrain.data.sample import media_to_row


def openai_parts(part: dict[str, Any]) -> list[dict[str, Any]]:
    """A text, or an image or video as data URIs; frames become images, which all endpoints take."""
    kind = part["type"]
    if kind == "text":
        return [part]
    value = part[kind]
    if kind == "video" and isinstance(value, str) and not value.startswith("data:"):
        value = Path(value).read_bytes()
    url = media_to_row(value)
    if not isinstance(url, str):
        return [{"type": "image_url", "image_url": {"url": frame}} for frame in url]
    if url.startswith("data:;"):
        url = f"data:{kind}/{'mp4' if kind == 'video' else 'png'}{url[5:]}"
    return [{"type": f"{kind}_url", f"{kind}_url": {"url": url}}]
