"""PIL pictures where paths and bytes may stand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from genmm_retriever.candidates import read_candidates
from genmm_retriever.checks import as_query
from genmm_retriever.corpus.images import open_image
from genmm_retriever.corpus.readers import read_sources
from genmm_retriever.errors import InputError, QueryError, SourceError
from genmm_retriever.schema import Item, Query

_ORIENTATION = 0x0112


def _noise(mode: str) -> Image.Image:
    drawn = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return Image.fromarray(drawn).convert(mode)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "F", "I", "YCbCr"])
def test_an_open_picture_is_kept_without_loss(mode: str) -> None:
    picture = _noise(mode)

    kept = Query(image=picture).image  # type: ignore[arg-type]

    assert isinstance(kept, bytes)
    assert np.array_equal(np.asarray(open_image(kept)), np.asarray(open_image(picture)))


def test_a_photograph_is_turned_upright_as_its_file_is(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[_ORIENTATION] = 6
    path = tmp_path / "phone.png"
    _noise("RGB").save(path, exif=exif)

    with Image.open(path) as picture:
        kept = Item(id="1", image=picture).image  # type: ignore[arg-type]

    assert isinstance(kept, bytes)
    assert open_image(kept).size == (5, 7)
    assert np.array_equal(np.asarray(open_image(kept)), np.asarray(open_image(path)))


def test_a_file_cut_short_is_told_of(tmp_path: Path) -> None:
    path = tmp_path / "cut.png"
    Image.effect_noise((64, 64), 50).save(path)
    path.write_bytes(path.read_bytes()[:200])

    with (
        Image.open(path) as picture,
        pytest.raises(QueryError, match="cannot be read: "),
    ):
        as_query(None, image=picture)


@pytest.mark.parametrize(("mode", "base"), [("HSV", "RGB"), ("RGBa", "RGBA"), ("La", "LA")])
def test_a_mode_that_no_format_has_is_turned_into_one(mode: str, base: str) -> None:
    kept = Query(image=_noise(base).convert(mode)).image  # type: ignore[arg-type]

    assert isinstance(kept, bytes)
    ours, theirs = open_image(kept), open_image(_noise(base))
    assert np.abs(np.asarray(ours, int) - np.asarray(theirs, int)).max() < 8


def test_without_pixels_or_closed_there_is_no_picture(tmp_path: Path) -> None:
    with pytest.raises(QueryError, match="0 x 0 pixels is empty"):
        as_query(None, image=Image.new("RGB", (0, 0)))
    closed = _noise("RGB")
    closed.close()
    with pytest.raises(QueryError, match=r"an open picture cannot be read: .*closed"):
        as_query(None, image=closed)


@pytest.mark.parametrize("given", [np.zeros((2, 2, 3), np.uint8), 7, ["a.jpg"]])
def test_what_is_no_picture_is_named_by_its_type(given: object) -> None:
    with pytest.raises(QueryError, match=f"a picture of type {type(given).__name__}; give a path"):
        as_query("a dog", image=given)  # type: ignore[arg-type]
    with pytest.raises(ValidationError, match="open PIL picture"):
        Item(id="1", image=given)  # type: ignore[arg-type]


def test_bytes_of_any_kind_and_paths_are_references() -> None:
    assert Query(image=bytearray(b"x")).image == b"x"  # type: ignore[arg-type]
    assert Query(image=memoryview(b"x")).image == b"x"  # type: ignore[arg-type]
    assert Query(image=Path("a.jpg")).image == "a.jpg"  # type: ignore[arg-type]


def test_an_open_picture_is_a_candidate() -> None:
    first, second = read_candidates([_noise("RGB"), (_noise("L"), 3.0)])

    assert (first.item.id, first.item.kind) == ("1", "image")
    assert (second.item.id, second.item.kind) == ("0", "image")
    with pytest.raises(InputError, match="a single one"):
        read_candidates(_noise("RGB"))  # type: ignore[arg-type]


@pytest.mark.parametrize("given", [3, [3], None, [None]])
def test_what_is_no_source_is_named_by_its_type(given: object) -> None:
    with pytest.raises(SourceError, match=r"a source of type (int|NoneType)"):
        list(read_sources(given))  # type: ignore[arg-type]
