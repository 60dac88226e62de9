"""Where a benchmark row's images and videos are.

Images: `image` as base64, as a list of them (`["…", "…"]`), as the index of another row that has
the image (VLMEvalKit shares them so), or as a `datasets` image; `image_path` beside the file;
`image_1` … `image_7` (MMMU). Videos: files anywhere below the benchmark's directory, by their path
or by their name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pretrain.data.sample import SampleError
from rl.benchmarks.files import Row, parse_literal

REFERENCE = 64
"""A shorter text in an image column is the index of the row that has the image (VLMEvalKit)."""
VIDEOS = (".mp4", ".mkv", ".webm", ".avi", ".mov", ".gif")
_MARK = re.compile(r"<image\s+(\d+)>")


class Media:
    """Images and videos of one benchmark's rows."""

    def __init__(self, rows: Sequence[Row], root: Path) -> None:
        self.root = root
        self._by_index = {row.text("index"): row for row in rows if "index" in row.values}
        self._videos: dict[str, Path] | None = None

    def images(self, row: Row) -> list[Any]:
        """The row's images in order, each something that `load_media` opens; [] if it has none."""
        numbered = [row.get(f"image_{k}") for k in range(1, 8)]
        if any(value is not None for value in numbered):
            return [_image(value) for value in numbered if value is not None]
        value = row.get("image", "decoded_image")
        for _ in range(3):  # a reference may lead to a reference
            if not (isinstance(value, str) and len(value) <= REFERENCE) or value.startswith("["):
                break
            owner = self._by_index.get(value.strip())
            if owner is None:
                if (row.file.parent / value).is_file():
                    return [value]
                raise SampleError(f"column 'image' refers to index {value!r}, which no row has")
            value = owner.get("image")
        if value is None or (isinstance(value, str) and len(value) <= REFERENCE):
            paths = row.get("image_path")
            paths = parse_literal(paths) if isinstance(paths, str) else paths
            return [] if paths is None else [paths] if isinstance(paths, str) else list(paths)
        if isinstance(value, str) and value.lstrip().startswith("["):
            value = parse_literal(value)
        return [_image(one) for one in value] if isinstance(value, list) else [_image(value)]

    def video(self, row: Row, *names: str) -> str:
        """Path of the row's video; `SampleError` naming what was looked for."""
        path = row.text("video_path")
        for base in (row.file.parent, self.root):
            if path and (base / path).is_file():
                return str((base / path).resolve())
        if self._videos is None:
            found = sorted(p for p in self.root.rglob("*") if p.suffix.lower() in VIDEOS)
            self._videos = {p.stem: p for p in reversed(found)}
        wanted = [Path(text).name for name in names if (text := row.text(name))]
        for name in wanted:
            for stem in (name, Path(name).stem):
                if stem in self._videos:
                    return str(self._videos[stem].resolve())
        raise SampleError(
            f"no video {' or '.join(wanted) or path or '(the row names none)'} "
            f"({'|'.join(VIDEOS)}) below {self.root}"
        )


def _image(value: Any) -> Any:
    if isinstance(value, str):
        return value if value.startswith("data:") else "data:;base64," + "".join(value.split())
    if isinstance(value, bytes) or (
        isinstance(value, Mapping) and (value.get("bytes") or value.get("path"))
    ):
        return value
    raise SampleError(f"an image must be base64, bytes or a path, got {type(value).__name__}")


def with_images(text: str, images: Sequence[Any], *, marked: bool = False) -> list[dict[str, Any]]:
    """Message parts: all images, then the text; or, `marked`, each where `<image k>` stands.

    Images that no mark names come first, so that none is lost.
    """
    parts: list[dict[str, Any]] = []
    used: set[int] = set()
    place = 0
    for found in _MARK.finditer(text) if marked else ():
        number = int(found[1])
        if not 1 <= number <= len(images):
            raise SampleError(
                f"the text names <image {number}>, the row has {len(images)} image(s)"
            )
        if before := text[place : found.start()]:
            parts.append({"type": "text", "text": before})
        parts.append({"type": "image", "image": images[number - 1]})
        used.add(number - 1)
        place = found.end()
    rest = text[place:]
    first = [{"type": "image", "image": v} for k, v in enumerate(images) if k not in used]
    return [*first, *parts, *([{"type": "text", "text": rest}] if rest else [])]
