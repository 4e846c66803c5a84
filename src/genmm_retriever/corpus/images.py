"""Opening pictures: any common format, upright, in RGB, within bounded memory."""

from __future__ import annotations

import contextlib
import io
import re
import stat
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, JpegImagePlugin, UnidentifiedImageError

from genmm_retriever.corpus.fetching import fetch
from genmm_retriever.corpus.references import (
    decode_data_uri,
    describe_reference,
    is_uri,
    local_path,
)
from genmm_retriever.errors import ImageError

IMAGE_SUFFIXES = frozenset(
    {
        *(".avif", ".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".mpo", ".pbm", ".pgm"),
        *(".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"),
    }
)
MAX_PIXELS = 100_000_000
# Formats that start other programs (EPS) or are no photographs are left out.
_FORMATS = ("PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "ICO", "JPEG2000")
_HUGE_JPEG = 16_000_000
_DRAFT_SIZE = (2048, 2048)
_REFERENCE_HINT = "use a path, file:, http(s): or data:"
_JPEG_MAGIC = b"\xff\xd8\xff"
_warning_filters = threading.Lock()


def open_image(
    ref: str | bytes | Path | Image.Image,
    *,
    max_pixels: int = MAX_PIXELS,
    name: str | None = None,
) -> Image.Image:
    """Open a picture, decoded, as models want it.

    Turned upright by its EXIF orientation, transparency on white, 16-bit, palette, grey and
    CMYK pictures as 8-bit RGB; of an animation the first frame. JPEG photographs of more than
    16 million pixels are decoded at a fraction (1/2, 1/4, 1/8) of their size, at least 2,048
    pixels a side.

    Args:
        ref: Path, `file:`, `data:` or `http(s):` URI, encoded bytes, or an open picture,
            which is left as it is.
        max_pixels: Refuse more; the header is looked at before anything is decoded.
        name: What messages call it; None for the reference itself.

    Returns:
        A picture of mode `RGB`.

    Raises:
        ImageError: If it is missing, broken, cut short, too large or no picture; it is named.

    Examples:
        >>> open_image(Image.new("L", (4, 3), 7)).getpixel((0, 0))
        (7, 7, 7)
    """
    name = name or describe_reference(ref)
    if isinstance(ref, Image.Image):
        with _errors(name):
            return _to_rgb(ref)
    with contextlib.closing(_stream(ref, name)) as stream, _errors(name):
        image = _open_header(stream, name, max_pixels)
        _bound(image, name, max_pixels)
        image.load()
        return _to_rgb(_upright(image))


def _stream(ref: str | bytes | Path, name: str) -> BinaryIO:
    """The encoded picture as a seekable stream."""
    if isinstance(ref, bytes):
        return io.BytesIO(ref)
    if isinstance(ref, str) and is_uri(ref):
        if ref[:5].lower() == "data:":
            return io.BytesIO(decode_data_uri(ref))
        if ref[:7].lower() in ("http://", "https:/"):
            return io.BytesIO(fetch(ref))
    if isinstance(ref, str) and not ref.strip():
        raise ImageError("the reference of a picture is empty", _REFERENCE_HINT)
    path = local_path(ref) if isinstance(ref, str) else ref
    if path is None:
        raise ImageError(f"{name} is no address of a picture", _REFERENCE_HINT)
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise ImageError(f"{name} is a folder, not a picture", "name a file in it")
        if not stat.S_ISREG(mode):
            # A pipe would block for ever.
            raise ImageError(f"{name} is not a regular file", "copy its content into one")
        return path.open("rb")
    except ImageError:
        raise
    except FileNotFoundError as error:
        raise ImageError(f"{name} does not exist", "check the path") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ImageError(f"{name} cannot be read: {reason}", "check the path") from error


@contextlib.contextmanager
def _errors(name: str) -> Iterator[None]:
    """Turn whatever a decoder raises into `ImageError`."""
    try:
        yield
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        raise ImageError(f"{name} is not a picture that can be read") from error
    except MemoryError as error:
        raise ImageError(f"{name} does not fit in memory", "shrink it first") from error
    except Exception as error:
        # Decoders meet broken data with errors of almost any type.
        raise ImageError(f"{name} is broken: {error}") from error


def _open_header(stream: BinaryIO, name: str, max_pixels: int) -> Image.Image:
    """Read the header only."""
    head = stream.read(len(_JPEG_MAGIC))
    stream.seek(0)
    if not head:
        raise ImageError(f"{name} is empty")
    if head == _JPEG_MAGIC:
        # Directly, because Image.open refuses huge photographs that draft mode can take.
        return JpegImagePlugin.JpegImageFile(stream)
    with _warning_filters, warnings.catch_warnings():
        # Bounds are checked right after; other complaints are no reason to refuse.
        warnings.simplefilter("ignore")
        try:
            return Image.open(stream, formats=_FORMATS)
        except Image.DecompressionBombError as error:
            # It counts them, and takes every such picture for an attack.
            counted = re.search(r"\((\d+) pixels", str(error))
            pixels = f"{int(counted[1]):,}" if counted else "too many"
            raise ImageError(
                f"{name} has {pixels} pixels, more than {max_pixels:,}", "shrink it first"
            ) from error


def _bound(image: Image.Image, name: str, max_pixels: int) -> None:
    """Refuse what would take too much memory; let JPEG decode at a fraction of its size."""
    width, height = image.size
    # A progressive JPEG keeps all coefficients in memory, whatever size it is decoded at.
    baseline = image.format == "JPEG" and not image.info.get("progressive")
    if width * height > (_HUGE_JPEG if baseline else max_pixels):
        image.draft(None, _DRAFT_SIZE)
    if image.width * image.height > max_pixels or (not baseline and width * height > max_pixels):
        raise ImageError(
            f"{name} has {width:,} x {height:,} pixels, more than {max_pixels:,}",
            "shrink it first",
        )


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:
        # Broken EXIF data says nothing about the pixels.
        return image


def _to_rgb(image: Image.Image) -> Image.Image:
    """Any mode as 8-bit RGB, transparency on white."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image.copy() if image.readonly else image
    if image.mode.startswith("I") or image.mode == "F":
        image = _to_eight_bits(image)
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "La", "RGBa"):
        if image.mode in ("La", "RGBa"):
            image = image.convert({"La": "LA", "RGBa": "RGBA"}[image.mode])
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def _to_eight_bits(image: Image.Image) -> Image.Image:
    """Grey pictures of 16 or 32 bits, or of floats, scaled to 8 bits."""
    values = np.asarray(image, dtype=np.float32)
    top = float(values.max(initial=0.0))
    if image.mode == "F":
        # Floats come as 0..1, 0..255 or in units of their own.
        low = min(0.0, float(values.min(initial=0.0)))
        high = 1.0 if top <= 1.0 else 255.0 if top <= 255.0 else top
        values = (values - low) / (high - low) * 255.0
    elif image.mode.startswith("I;16") or top > 255.0:
        values = values / (257.0 if top <= 65535.0 else top / 255.0)
    return Image.fromarray(values.clip(0, 255).round().astype(np.uint8))
