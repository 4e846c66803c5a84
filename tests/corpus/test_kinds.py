"""What an item is shown as: sources and media types of every kind of reference."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from genmm_retriever.corpus.kinds import media_type, shown_source
from genmm_retriever.schema import Item


@pytest.fixture
def encoded():
    stream = io.BytesIO()
    Image.new("RGB", (8, 8)).save(stream, "GIF")
    return stream.getvalue()


@pytest.mark.parametrize(
    ("image", "wanted"),
    [
        (None, "text/plain"),
        ("photos/a.JPG", "image/jpeg"),
        ("a#1?.webp", "image/webp"),
        ("file:///tmp/a%20b.png", "image/png"),
        ("https://example.org/a.png?size=2#x", "image/png"),
        ("https://example.org/picture", None),
        ("s3://bucket/a.gif", "image/gif"),
        ("data:image/svg+xml;base64,AAAA", "image/svg+xml"),
        ("DATA:,x", None),
        ("absent", None),
        (b"no picture", None),
    ],
)
def test_media_types_by_name(image, wanted):
    assert media_type(image) == wanted


def test_media_types_by_content(encoded, tmp_path):
    path = tmp_path / "unnamed"
    path.write_bytes(encoded)
    assert media_type(encoded) == media_type(str(path)) == media_type(path.as_uri()) == "image/gif"


def test_sources_are_short(encoded):
    assert shown_source(Item(id="x", image="a.png")) == "a.png"
    assert shown_source(Item(id="x", image=encoded)) == "x"
    assert shown_source(Item(id="x", image="Data:image/png;base64,AAAA")) == "x"
    assert shown_source(Item(id="x", text="words")) == "x"
