"""What an item is shown as elsewhere: a short reference and a media type."""

from __future__ import annotations

import mimetypes
from io import BytesIO
from pathlib import Path
from urllib.parse import urlsplit

from PIL import Image

from genmm_retriever.corpus.references import is_data_uri, local_path
from genmm_retriever.schema import Item


def shown_source(item: Item) -> str:
    """A reference that is short enough to show: never bytes and never a `data:` URI.

    Examples:
        >>> shown_source(Item(id="7", image="a.png")), shown_source(Item(id="7", text="A dog."))
        ('a.png', '7')
    """
    if isinstance(item.image, str) and not is_data_uri(item.image):
        return item.image
    return item.id


def media_type(image: str | bytes | None) -> str | None:
    """The media type of an item's picture, by its name or else its first bytes.

    Args:
        image: As in `Item.image`; None for a text item.

    Returns:
        Such as `"image/png"`; `"text/plain"` for a text item; None if it cannot be told.

    Examples:
        >>> media_type("https://example.org/a.webp?size=2"), media_type(None)
        ('image/webp', 'text/plain')
    """
    if image is None:
        return "text/plain"
    opened: BytesIO | Path
    if isinstance(image, bytes):
        opened = BytesIO(image)
    elif is_data_uri(image):
        return image[5:].split(",", 1)[0].split(";", 1)[0] or None
    else:
        path = local_path(image)
        suffix = Path(urlsplit(image).path if path is None else path).suffix
        # The non-standard table too: before Python 3.13 it is the one that knows webp.
        guessed, _ = mimetypes.guess_type(f"x{suffix}", strict=False)
        if guessed is not None or path is None:
            return guessed
        opened = path
    try:
        with Image.open(opened) as file:
            return Image.MIME.get(file.format or "")
    except (OSError, ValueError, Image.DecompressionBombError):
        return None
