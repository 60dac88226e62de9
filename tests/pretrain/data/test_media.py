"""Images are decoded within bounds, from allowed places only, into uint8 RGB."""

from __future__ import annotations

import base64
import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pretrain.data.media import MediaConfig, check_media, load_image, load_media
from pretrain.data.sample import Sample, SampleError

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)


def png(image=None) -> bytes:
    buffer = io.BytesIO()
    (image or Image.fromarray(PIXELS)).save(buffer, format="PNG")
    return buffer.getvalue()


@pytest.fixture
def base(tmp_path) -> Path:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.png").write_bytes(png())
    (tmp_path / "secret.png").write_bytes(png())
    return tmp_path / "data"


def load(value, base, **config):
    return load_image(value, base, MediaConfig(**config))


def test_every_form_of_an_image_gives_the_same_pixels(base):
    uri = "data:image/png;base64," + base64.b64encode(png()).decode()
    forms = [
        "a.png",
        str(base / "a.png"),
        f"file://{base / 'a.png'}",
        uri,
        png(),
        {"bytes": png(), "path": None},
        {"bytes": None, "path": "a.png"},
        Image.fromarray(PIXELS),
        PIXELS,
    ]
    for form in forms:
        np.testing.assert_array_equal(load(form, base), PIXELS)


def test_grey_palette_transparent_and_turned_images(base):
    grey = Image.fromarray(PIXELS[..., 0])
    np.testing.assert_array_equal(load(png(grey), base), np.repeat(PIXELS[..., :1], 3, -1))
    clear = np.dstack([PIXELS, np.zeros((6, 9), np.uint8)])
    assert (load(png(Image.fromarray(clear)), base) == 255).all()
    palette = Image.fromarray(PIXELS).convert("P")
    np.testing.assert_array_equal(load(png(palette), base), np.asarray(palette.convert("RGB")))
    turned, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: rotate by 270 degrees
    Image.fromarray(PIXELS).save(turned, format="PNG", exif=exif)
    np.testing.assert_array_equal(load(turned.getvalue(), base), np.rot90(PIXELS, 3))


def bomb() -> bytes:
    """A PNG of 69 bytes whose header claims 60,000 × 60,000 pixels."""
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    body = b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("missing.png", "missing file missing.png"),
        ("../secret.png", "outside the folders"),
        ("/etc/passwd", "outside the folders"),
        ("link.png", "outside the folders"),
        ("https://example.org/a.png", "is a URL"),
        ("data:image/png,abc", "data URI must read"),
        ("data:image/png;base64,###", "not valid base64"),
        (b"", "path, a data URI or bytes|not an image"),
        (b"not an image", "not an image"),
        ("", "path, a data URI or bytes"),
        (7, "got int"),
        (bomb(), "too many pixels|more than max_pixels"),
        (np.zeros((4, 4), np.uint8), r"uint8 \[H, W, 3\]"),
        (np.zeros((4, 4, 3), np.float32), r"uint8 \[H, W, 3\]"),
    ],
)
def test_what_cannot_be_opened_is_named(value, message, base):
    (base / "link.png").symlink_to("../secret.png")
    sample = Sample("q1", [], "x", "a/b")
    sample.messages = [{"role": "user", "content": [{"type": "image", "image": value}]}]
    for use in (check_media, load_media):
        with pytest.raises(SampleError, match=message) as error:
            use(sample, base, MediaConfig())
        assert "'q1'" in str(error.value)


def test_more_folders_can_be_allowed_and_pixels_limited(base):
    roots = [str(base.parent)]
    np.testing.assert_array_equal(load("../secret.png", base, roots=roots), PIXELS)
    np.testing.assert_array_equal(load("a.png", base, max_pixels=54), PIXELS)
    with pytest.raises(SampleError, match=r"a\.png has 9×6 pixels, more than max_pixels=53"):
        load("a.png", base, max_pixels=53)


def test_a_truncated_image_fails_when_decoded(base):
    noise = np.random.default_rng(1).integers(0, 256, (60, 60, 3), dtype=np.uint8)
    (base / "half.png").write_bytes(png(Image.fromarray(noise))[:-3000])
    with pytest.raises(SampleError, match=r"half\.png cannot be decoded"):
        load("half.png", base)


def test_loading_leaves_the_sample_as_it_was(base):
    parts = [{"type": "image", "image": "a.png", "alt": "noise"}, {"type": "text", "text": "?"}]
    sample = Sample("q1", [{"role": "user", "content": parts}], "x", "a/b")
    loaded = load_media(sample, base, MediaConfig())
    np.testing.assert_array_equal(loaded.media()[0]["image"], PIXELS)
    assert loaded.media()[0]["alt"] == "noise" and sample.media()[0]["image"] == "a.png"


def test_videos_become_paths_bytes_or_frames(base):
    (base / "clip.mp4").write_bytes(b"frames")
    (base / "empty.mp4").write_bytes(b"")

    def video(value):
        parts = [{"type": "video", "video": value}]
        sample = Sample("q1", [{"role": "user", "content": parts}], "x", "a/b")
        return load_media(sample, base, MediaConfig()).media()[0]["video"]

    assert video("clip.mp4") == str(base / "clip.mp4") and video(b"frames") == b"frames"
    assert np.array_equal(video(["a.png", PIXELS]), [PIXELS, PIXELS])
    with pytest.raises(SampleError, match=r"empty\.mp4 is empty"):
        video("empty.mp4")
