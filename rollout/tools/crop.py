"""The tool `crop`: look at a part of an image again, larger ("think with images").

Coordinates are those of the model's grounding answers: whole numbers 0…999 over the image's width
and height. The part is cut from the image at full resolution, so it shows what the reduced image
that the policy was given can't.
"""

from __future__ import annotations

import math
from typing import Any

from PIL import Image

from pretrain.keye_vl.image_processing import MAX_ASPECT_RATIO, TOKEN_PIXELS
from rollout.tools.tool import ToolContext, ToolError, ToolResult

SCALE = 1000
"""Coordinates run over [0, 1000)."""
MAX_ZOOM = 8


class CropTool:
    """Cuts a box out of an image and enlarges it, up to `max_tokens` visual tokens."""

    name = "crop"
    description = (
        "Cuts a box out of an image and shows it enlarged. Coordinates are 0 to 999 over the "
        "image's width and height."
    )
    gives_images = True

    def __init__(self, max_tokens: int = 256) -> None:
        self.max_tokens = max_tokens
        coordinate = {"type": "integer", "minimum": 0, "maximum": SCALE - 1}
        self.parameters: dict[str, Any] = {
            "type": "object",
            "properties": {
                "box": {
                    "type": "array",
                    "items": coordinate,
                    "minItems": 4,
                    "maxItems": 4,
                    "description": "[left, top, right, bottom].",
                },
                "image": {
                    "type": "integer",
                    "minimum": 1,
                    "description": "Which image, from 1 on; results count on. Default 1.",
                },
                "zoom": {
                    "type": "number",
                    "minimum": 1,
                    "maximum": MAX_ZOOM,
                    "description": "Enlargement. Default 2.",
                },
            },
            "required": ["box"],
            "additionalProperties": False,
        }

    def call(self, arguments: dict[str, Any], context: ToolContext) -> ToolResult:
        """The part of the image; `ToolError` for an image or a box that isn't there."""
        number = int(arguments.get("image", 1))
        if number > len(context.images):
            count = len(context.images)
            raise ToolError(f"there is no image {number}, the conversation has {count}")
        image = context.images[number - 1]
        box = _pixels(arguments["box"], image.size)
        part = image.crop(box)
        size = zoomed(part.size, float(arguments.get("zoom", 2)), self.max_tokens)
        return ToolResult("", part.resize(size, Image.Resampling.BICUBIC))


def _pixels(box: list[int], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """The pixels a box covers: a corner 999 is the image's edge. At least one pixel."""
    left, top, right, bottom = (int(value) for value in box)
    if left >= right or top >= bottom:
        raise ToolError(f"box {box} is empty: left must be below right, and top below bottom")
    width, height = size
    x1, y1 = left * width // SCALE, top * height // SCALE
    x2 = max(x1 + 1, math.ceil((right + 1) * width / SCALE))
    y2 = max(y1 + 1, math.ceil((bottom + 1) * height / SCALE))
    pixels = (x1, y1, min(x2, width), min(y2, height))
    long, short = max(pixels[2] - x1, pixels[3] - y1), min(pixels[2] - x1, pixels[3] - y1)
    if long > MAX_ASPECT_RATIO * short:
        raise ToolError(f"box {box} is too narrow: {pixels[2] - x1}×{pixels[3] - y1} pixels")
    return pixels


def zoomed(size: tuple[int, int], zoom: float, max_tokens: int) -> tuple[int, int]:
    """Width and height in pixels after enlargement, within `max_tokens` of 28×28 pixels."""
    area = size[0] * size[1]
    factor = min(zoom, math.sqrt(max_tokens * TOKEN_PIXELS / area))
    return max(1, int(size[0] * factor)), max(1, int(size[1] * factor))
