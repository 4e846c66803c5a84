from __future__ import annotations

import base64
import http.server
import io
import os
import struct
import sys
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from genmm_retriever.corpus.fetching import fetch
from genmm_retriever.corpus.images import open_image
from genmm_retriever.errors import ImageError


def encoded(image, kind="PNG", **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def noise(width=64, height=48):
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def chunk(kind, body):
    crc = zlib.crc32(kind + body)
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", crc)


def huge_png(path, side=40_000):
    """A real PNG of side x side black pixels; highly compressed, as bombs are."""
    packer = zlib.compressobj(9)
    row = b"\0" * (side // 8 + 1)
    with path.open("wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        file.write(chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)))
        for _ in range(side // 1000):
            if body := packer.compress(row * 1000):
                file.write(chunk(b"IDAT", body))
        file.write(chunk(b"IDAT", packer.flush()))
        file.write(chunk(b"IEND", b""))


def test_every_kind_of_reference(tmp_path):
    image = noise()
    path = tmp_path / "a b#c?.png"
    path.write_bytes(encoded(image))
    uri = "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
    for ref in (path, str(path), path.as_uri(), path.read_bytes(), uri, image):
        assert open_image(ref).tobytes() == image.tobytes()


@pytest.mark.parametrize(
    ("mode", "value", "expected"),
    [
        ("RGBA", (255, 0, 0, 0), (255, 255, 255)),
        ("RGBA", (255, 0, 0, 255), (255, 0, 0)),
        ("LA", (0, 0), (255, 255, 255)),
        ("L", 9, (9, 9, 9)),
        ("1", 1, (255, 255, 255)),
        ("I;16", 65535, (255, 255, 255)),
        ("I;16", 257 * 12, (12, 12, 12)),
    ],
)
def test_modes(mode, value, expected):
    found = open_image(encoded(Image.new(mode, (3, 2), value)))
    assert found.mode == "RGB"
    assert found.getpixel((1, 1)) == expected


def test_palette_transparency_cmyk_and_floats():
    palette = Image.new("P", (2, 2), 0)
    palette.putpalette([10, 20, 30, 200, 0, 0])
    assert open_image(encoded(palette)).getpixel((0, 0)) == (10, 20, 30)
    assert open_image(encoded(palette, transparency=0)).getpixel((0, 0)) == (255, 255, 255)
    assert open_image(encoded(Image.new("CMYK", (2, 2)), "TIFF")).getpixel((0, 0)) == (255,) * 3
    floats = Image.fromarray(np.array([[0.0, 1.0]], dtype=np.float32))
    assert list(open_image(encoded(floats, "TIFF")).tobytes()) == [0, 0, 0, 255, 255, 255]


def test_exif_orientation_is_applied():
    exif = Image.Exif()
    exif[0x0112] = 6
    found = open_image(encoded(noise(64, 48), "JPEG", exif=exif))
    assert found.size == (48, 64)


def test_first_frame_of_an_animation():
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
    body = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert open_image(body).getpixel((0, 0)) == (255, 0, 0)


def test_huge_photographs_are_decoded_at_a_fraction(tmp_path):
    path = tmp_path / "huge.jpg"
    Image.new("L", (12_000, 10_000), 128).save(path, "JPEG")
    found = open_image(path)
    assert found.size == (3000, 2500)
    with pytest.raises(ImageError, match="12,000 x 10,000"):
        open_image(path, max_pixels=1_000_000)


def test_huge_progressive_photographs_are_refused():
    body = encoded(Image.new("L", (2000, 2000)), "JPEG", progressive=True)
    with pytest.raises(ImageError, match="2,000 x 2,000"):
        open_image(body, max_pixels=1_000_000)
    assert open_image(body).size == (2000, 2000)


@pytest.mark.skipif(sys.platform == "win32", reason="limits memory by resource")
def test_a_bomb_is_refused_in_bounded_memory(tmp_path):
    import resource

    path = tmp_path / "bomb.png"
    huge_png(path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ImageError, match=r"bomb\.png' has 1,600,000,000 pixels") as caught:
        open_image(path)
    assert "DOS" not in str(caught.value)
    # Decoded it would take 200 MB at one bit a pixel and 4.8 GB as RGB.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000


def test_between_pillows_limit_and_ours_nothing_is_warned_of():
    body = encoded(Image.new("1", (9_600, 9_600)))
    assert open_image(body).size == (9_600, 9_600)


@pytest.mark.parametrize(
    ("name", "body", "match"),
    [
        ("cut.jpg", encoded(noise(), "JPEG")[:-900], "truncated|broken"),
        ("cut.png", encoded(noise())[:-900], "truncated|broken"),
        ("cut.webp", encoded(noise(), "WEBP")[:-900], "not a picture|broken"),
        ("text.png", b"This is a text, not a picture.\n", "not a picture"),
        ("text.jpg", b"\xff\xd8\xffnothing", "broken"),
        ("empty.png", b"", "is empty"),
        ("page.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture"),
    ],
)
def test_what_is_no_picture_is_named(tmp_path, name, body, match):
    path = tmp_path / name
    path.write_bytes(body)
    with pytest.raises(ImageError, match=match) as caught:
        open_image(path)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_no_file_is_named(tmp_path):
    with pytest.raises(ImageError, match="does not exist"):
        open_image(tmp_path / "none.png")
    with pytest.raises(ImageError, match=r"^'[^']*' is a folder"):
        open_image(tmp_path)
    with pytest.raises(ImageError, match="is empty"):
        open_image("")
    with pytest.raises(ImageError, match="no address"):
        open_image("ftp://example.org/a.png")
    for bad in ("data:image/png;base64,@@@", "data:image/png"):
        with pytest.raises(ImageError, match="malformed"):
            open_image(bad)
    with pytest.raises(ImageError):
        open_image("a\0b.png")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ImageError, match=r"^'[^']*' is not a regular file"):
        open_image(tmp_path / "pipe.png")


@pytest.fixture
def site():
    body = encoded(noise())

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            if self.path == "/file":
                self.send_response(302)
                self.send_header("Location", "file:///etc/hostname")
                self.end_headers()
                return
            found = self.path.startswith("/a.png")
            self.send_response(200 if found else 404)
            self.end_headers()
            if found:
                self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_web_addresses_within_bounds(site, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert open_image(f"{site}/a.png").size == (64, 48)
    with pytest.raises(ImageError, match="larger than 100 bytes"):
        fetch(f"{site}/a.png", max_bytes=100)
    with pytest.raises(ImageError, match="HTTP 404") as caught:
        open_image(f"{site}/b.png?token=secret")
    assert "secret" not in str(caught.value)
    with pytest.raises(ImageError):
        open_image(f"{site}/file")


def test_an_open_picture_is_left_as_it_is():
    image = Image.new("RGBA", (2, 2), (0, 0, 0, 0))
    assert open_image(image).mode == "RGB"
    assert image.mode == "RGBA"


def test_non_utf8_names_open(tmp_path):
    name = os.fsencode(tmp_path) + b"/caf\xe9.png"
    try:
        with open(name, "wb") as file:  # noqa: PTH123 - a path of bytes
            file.write(encoded(noise()))
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    assert open_image(Path(os.fsdecode(name))).size == (64, 48)
