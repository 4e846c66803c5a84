"""Pictures as they are sent: the files themselves, and small forms made on the way."""

from __future__ import annotations

import hashlib
import io
import os
import re
import stat
import threading
from collections import OrderedDict
from pathlib import Path

from PIL import Image
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.types import Receive, Scope, Send

from ...corpus.images import open_image
from ...errors import ImageError
from .errors import Refusal

CACHE_CONTROL = "private, max-age=60, must-revalidate"
LEAST_SIDE, MOST_SIDE = 16, 1024
_HEAD_BYTES = 32
_RANGE = re.compile(r"(\d{1,18})-(\d{1,18})?|-\d{1,18}", re.ASCII)
_DECODERS = 2
_QUALITY = 85
# Only what a browser shows as a picture and nothing else: no SVG, which can hold scripts.
_MAGIC = (
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"BM", "image/bmp"),
    (b"II*\x00", "image/tiff"),
    (b"MM\x00*", "image/tiff"),
)


def media_type(head: bytes) -> str | None:
    r"""The type of a picture by its first bytes, or None if it is none that is shown.

    Examples:
        >>> media_type(b"\x89PNG\r\n\x1a\n..."), media_type(b"<svg onload=...")
        ('image/png', None)
    """
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "image/webp"
    if head[4:8] == b"ftyp" and head[8:12] in (b"avif", b"avis"):
        return "image/avif"
    return next((kind for magic, kind in _MAGIC if head.startswith(magic)), None)


def is_range(header: str) -> bool:
    """Whether a Range header asks for bytes, in words that make sense.

    Examples:
        >>> is_range("bytes=0-9, -5"), is_range("bytes=9-2"), is_range("lines=1-2")
        (True, False, False)
    """
    unit, _, ranges = header.partition("=")
    found = [_RANGE.fullmatch(part.strip()) for part in ranges.split(",")]
    return unit.strip().lower() == "bytes" and all(
        one is not None and not (one[2] and int(one[1]) > int(one[2])) for one in found
    )


def picture_response(path: Path, request: Request) -> Response:
    """A picture's file, in parts where they are asked for.

    Raises:
        Refusal: 404 if the file is gone.
    """
    found, head = _look(path)
    kind = media_type(head)
    etag = _etag(found)
    headers = {"Cache-Control": CACHE_CONTROL, "ETag": etag}
    if kind is None:
        headers["Content-Disposition"] = "attachment"
    if _knows(request, etag):
        return Response(status_code=304, headers=headers)
    return _File(
        path,
        headers=headers,
        media_type=kind or "application/octet-stream",
        stat_result=found,
    )


class _File(FileResponse):
    """A file that is sent whole where the Range header makes no sense, as RFC 9110 has it."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        given = Headers(scope=scope).get("range")
        if given is not None and not is_range(given):
            kept = [(name, value) for name, value in scope["headers"] if name.lower() != b"range"]
            scope = {**scope, "headers": kept}
        await super().__call__(scope, receive, send)


class Thumbnails:
    """Small JPEGs of pictures, the latest kept in memory.

    Args:
        max_bytes: Memory for those that are kept.
        max_pixels: Larger pictures are not decoded.
    """

    def __init__(self, max_bytes: int, max_pixels: int) -> None:
        self._max_bytes, self._max_pixels = max_bytes, max_pixels
        self._kept: OrderedDict[tuple[str, str, int], bytes] = OrderedDict()
        self._size = 0
        self._lock = threading.Lock()
        # Decoding takes memory by the pixel, so that only few may do it at once.
        self._decoders = threading.BoundedSemaphore(_DECODERS)

    def response(self, path: Path, size: int, request: Request) -> Response:
        """A JPEG of at most `size` pixels a side.

        Raises:
            Refusal: 404 if the file is gone, 422 if it cannot be decoded.
        """
        found, _ = _look(path)
        source = _etag(found)
        etag = '"' + hashlib.sha256(f"{source} {size}".encode()).hexdigest()[:32] + '"'
        headers = {"Cache-Control": CACHE_CONTROL, "ETag": etag}
        if _knows(request, etag):
            return Response(status_code=304, headers=headers)
        content = self._content(path, source, size)
        return Response(content, media_type="image/jpeg", headers=headers)

    def _content(self, path: Path, source: str, size: int) -> bytes:
        key = (str(path), source, size)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        content = self._made(path, size)
        with self._lock:
            if key not in self._kept:
                self._kept[key] = content
                self._size += len(content)
            while self._size > self._max_bytes:
                self._size -= len(self._kept.popitem(last=False)[1])
        return content

    def _made(self, path: Path, size: int) -> bytes:
        with self._decoders:
            try:
                image = open_image(path, max_pixels=self._max_pixels)
            except ImageError as error:
                # The message names a path of this machine, which is nobody else's business.
                raise Refusal(
                    422, "this picture cannot be made smaller", "it is broken or too large"
                ) from error
            image.thumbnail((size, size))
            stream = io.BytesIO()
            image.save(stream, "JPEG", quality=_QUALITY)
        return stream.getvalue()


class UploadedPictures:
    """Looks at uploaded pictures before anything else is done with them.

    Args:
        max_pixels: More are refused.
    """

    def __init__(self, max_pixels: int) -> None:
        self._max_pixels = max_pixels
        self._decoders = threading.BoundedSemaphore(_DECODERS)

    def check(self, content: bytes) -> None:
        """Decode a picture once, so that a broken one never reaches the model.

        Raises:
            Refusal: 422 if it is broken, too large or no picture.
        """
        with self._decoders:
            try:
                open_image(content, max_pixels=self._max_pixels)
            except ImageError as error:
                if isinstance(error.__cause__, Image.DecompressionBombError):
                    # Pillow's words name a limit of its own, far above this one.
                    raise Refusal(
                        422,
                        f"the picture has more than {self._max_pixels:,} pixels",
                        "shrink it first",
                    ) from error
                raise Refusal(
                    422, error.message, error.hint or "send a JPEG, PNG or WebP"
                ) from error


def _look(path: Path) -> tuple[os.stat_result, bytes]:
    """What is known of a file, and its first bytes."""
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise FileNotFoundError
        with path.open("rb") as handle:
            return found, handle.read(_HEAD_BYTES)
    except (OSError, ValueError) as error:
        raise Refusal(
            404, "the file of this picture is gone", "put it back, or delete the item"
        ) from error


def _etag(found: os.stat_result) -> str:
    changed = f"{found.st_mtime_ns} {found.st_size} {found.st_ino}"
    return '"' + hashlib.sha256(changed.encode()).hexdigest()[:32] + '"'


def _knows(request: Request, etag: str) -> bool:
    """Whether the client says that it has this very content."""
    given = request.headers.get("if-none-match", "")
    return given.strip() == "*" or etag in {
        one.strip().removeprefix("W/") for one in given.split(",")
    }
