"""Pictures that are open already, as the encoded bytes that everything else works with."""

from __future__ import annotations

import io
import sys
from typing import TYPE_CHECKING, Any, TypeGuard

if TYPE_CHECKING:
    from PIL.Image import Image

_PNG_MODES = ("1", "L", "LA", "I;16", "P", "RGB", "RGBA")
_OTHERWISE = {"HSV": "RGB", "La": "LA", "RGBa": "RGBA"}
"""Modes that neither format has, and what they are turned into."""


def is_open_picture(value: object) -> TypeGuard[Image]:
    """Whether it is a PIL picture; PIL is not imported for it."""
    module: Any = sys.modules.get("PIL.Image")
    return module is not None and isinstance(value, module.Image)


def encoded(picture: Image) -> bytes:
    """A picture's pixels without loss, turned upright by its EXIF orientation.

    As PNG, or as TIFF where PNG lacks the mode, such as CMYK.

    Raises:
        ValueError: If it has no pixels, or cannot be read to its end.
    """
    from PIL import ImageOps

    if 0 in picture.size:
        raise ValueError(f"a picture of {picture.width} x {picture.height} pixels is empty")
    try:
        upright = ImageOps.exif_transpose(picture)
        if upright.mode in _OTHERWISE:
            upright = upright.convert(_OTHERWISE[upright.mode])
        stream = io.BytesIO()
        if upright.mode in _PNG_MODES:
            # The lowest level: it is read again soon, and is rarely kept.
            upright.save(stream, "PNG", compress_level=1)
        else:
            upright.save(stream, "TIFF")
    except Exception as error:
        # Lazily opened files are decoded now, with errors of almost any type.
        raise ValueError(f"an open picture cannot be read: {error}") from error
    return stream.getvalue()
