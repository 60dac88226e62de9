"""Reading the images of a sample: from files, data URIs, bytes, PIL images and arrays.

Invariants: nothing is decoded before its size in pixels is known to be bounded, no file outside
the allowed folders is opened, nothing is fetched from a network, and what comes out is always
uint8 [H, W, 3].
"""

import base64
import binascii
import io
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from pretrain.data.sample import Sample, SampleError

_SCHEMES = ("http:", "https:", "ftp:", "s3:", "gs:", "hf:")


@dataclass
class MediaConfig:
    """What may be opened for a row; the defaults suit rows that are not trusted."""

    roots: list[str] = field(default_factory=list)
    """Folders from which media may be read, beside the data file's own folder."""
    max_pixels: int = 50_000_000
    """Larger images are refused before decoding (a small file can hold billions of pixels)."""


def check_media(sample: Sample, base: Path, config: MediaConfig) -> None:
    """Make sure that all media can be opened and are of bounded size, without decoding them.

    `base` is the folder that relative paths start from. Raises `SampleError` naming the sample.
    """
    _each(sample, lambda kind, value: _check(kind, value, base, config))


def load_media(sample: Sample, base: Path, config: MediaConfig) -> Sample:
    """A copy of the sample whose images are arrays and whose videos are absolute paths or bytes.

    Raises `SampleError` naming the sample and the medium.
    """
    loaded = iter(_each(sample, lambda kind, value: _load(kind, value, base, config)))
    messages = []
    for message in sample.messages:
        content = message["content"]
        if not isinstance(content, str):
            content = [
                part if part["type"] == "text" else part | {part["type"]: next(loaded)}
                for part in content
            ]
        messages.append({"role": message["role"], "content": content})
    return replace(sample, messages=messages)


def load_image(value: Any, base: Path, config: MediaConfig) -> np.ndarray:
    """Decode one image to uint8 [H, W, 3]: upright (EXIF), transparency on white.

    Raises `SampleError` for what is not an image, is truncated, too large or not allowed.
    """
    if isinstance(value, np.ndarray):
        return _checked_array(value)
    image = _open(value, base, config)
    try:
        image = ImageOps.exif_transpose(image)
        if image.has_transparency_data:
            white = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(white, image.convert("RGBA"))
        return np.asarray(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError) as error:
        raise SampleError(f"image {_name(value)} cannot be decoded: {error}") from None


def _each(sample: Sample, visit: Any) -> list[Any]:
    results = []
    for part in sample.media():
        try:
            results.append(visit(part["type"], part[part["type"]]))
        except SampleError as error:
            raise SampleError(f"sample {sample.id!r}: {error}") from None
    return results


def _check(kind: str, value: Any, base: Path, config: MediaConfig) -> None:
    if kind == "video":
        _load(kind, value, base, config)
    elif isinstance(value, np.ndarray):
        _checked_array(value)
    else:
        _open(value, base, config)


def _load(kind: str, value: Any, base: Path, config: MediaConfig) -> Any:
    if kind == "image":
        return load_image(value, base, config)
    if isinstance(value, list) and value:
        return [load_image(frame, base, config) for frame in value]
    source = _source(value, base, config)
    size = source.stat().st_size if isinstance(source, Path) else len(source)
    if not size:
        raise SampleError(f"video {_name(value)} is empty")
    return str(source) if isinstance(source, Path) else source


def _checked_array(value: np.ndarray) -> np.ndarray:
    if value.dtype != np.uint8 or value.ndim != 3 or value.shape[-1] != 3 or not value.size:
        raise SampleError(
            f"image array must be uint8 [H, W, 3], got {value.dtype} {list(value.shape)}"
        )
    return value


def _open(value: Any, base: Path, config: MediaConfig) -> Image.Image:
    """The image with its header read and its size checked; pixels come later."""
    if isinstance(value, Image.Image):
        image = value
    else:
        source = _source(value, base, config)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)
                image = Image.open(source if isinstance(source, Path) else io.BytesIO(source))
        except Image.DecompressionBombError:
            raise SampleError(f"image {_name(value)} has too many pixels") from None
        except UnidentifiedImageError:
            raise SampleError(f"image {_name(value)} is not an image that can be read") from None
        except (OSError, ValueError, SyntaxError) as error:
            raise SampleError(f"image {_name(value)} cannot be opened: {error}") from None
    width, height = image.size
    if width * height > config.max_pixels:
        raise SampleError(
            f"image {_name(value)} has {width}×{height} pixels, more than max_pixels="
            f"{config.max_pixels}; shrink it or raise the limit"
        )
    return image


def _source(value: Any, base: Path, config: MediaConfig) -> Path | bytes:
    """Where the bytes are: a checked path, or the bytes themselves."""
    if isinstance(value, Mapping):  # the Hugging Face `Image` column: bytes, or a path
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes | bytearray):
        return bytes(value)
    if not isinstance(value, str | Path) or not str(value):
        raise SampleError(f"medium must be a path, a data URI or bytes, got {type(value).__name__}")
    text = str(value)
    if text.startswith("data:"):
        return _decode_uri(text)
    if text.startswith(_SCHEMES):
        raise SampleError(f"{_name(text)} is a URL, and nothing is downloaded; use a local file")
    return _allowed_path(text.removeprefix("file://"), base, config)


def _decode_uri(uri: str) -> bytes:
    header, comma, payload = uri.partition(",")
    if not comma or not header.endswith(";base64"):
        raise SampleError("data URI must read data:TYPE;base64,CONTENT")
    try:
        return base64.b64decode(payload, validate=True)
    except binascii.Error as error:
        raise SampleError(f"data URI is not valid base64: {error}") from None


def _allowed_path(text: str, base: Path, config: MediaConfig) -> Path:
    path = (base / text).resolve()  # follows links, so a link cannot lead outside
    roots = [base.resolve(), *(Path(root).resolve() for root in config.roots)]
    if not any(path.is_relative_to(root) for root in roots):
        raise SampleError(
            f"{text} is outside the folders that media may be read from "
            f"({', '.join(map(str, roots))}); add its folder to media.roots if you trust it"
        )
    if not path.is_file():
        raise SampleError(f"missing file {text} (looked for {path})")
    return path


def _name(value: Any) -> str:
    """A short name of a medium for messages."""
    if isinstance(value, str | Path):
        text = str(value)
        return text if len(text) <= 80 else f"{text[:60]}…"
    return f"given as {type(value).__name__}"
