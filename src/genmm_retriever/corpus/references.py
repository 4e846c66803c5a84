"""References to pictures: paths, `file:` and `data:` URIs, web addresses."""

from __future__ import annotations

import base64
import binascii
import os
import re
import sys
from pathlib import Path
from urllib.parse import unquote_to_bytes, urlsplit

from genmm_retriever.errors import ImageError
from genmm_retriever.schema import is_unicode

_SCHEME = re.compile(r"(data:|[A-Za-z][A-Za-z0-9+.-]*://)")


def is_uri(reference: str) -> bool:
    """Whether a reference is a URI and not a path.

    Examples:
        >>> is_uri("https://example.org/a.png"), is_uri("photos/a.png")
        (True, False)
    """
    return _SCHEME.match(reference) is not None


def is_data_uri(reference: str) -> bool:
    """Whether a reference is a `data:` URI, which holds the picture itself."""
    return reference[:5].lower() == "data:"


def local_path(reference: str) -> Path | None:
    """The file a reference names, or None if it is a web address or `data:` URI.

    Examples:
        >>> local_path("file:///tmp/a%20b.png").as_posix(), local_path("http://x.org/a.png")
        ('/tmp/a b.png', None)
    """
    if not is_uri(reference):
        return Path(reference)
    if reference[:7].lower() != "file://":
        return None
    # The path may hold "?" and "#" that someone forgot to escape: all of it is a path.
    rest = reference[7:]
    if rest[:10].lower() == "localhost/":
        rest = rest[9:]
    text = os.fsdecode(unquote_to_bytes(rest))
    if sys.platform == "win32" and re.match(r"/[A-Za-z]:", text):
        text = text[1:]
    return Path(text)


def image_reference(path: Path) -> str:
    """A string that names a file and is valid Unicode, which a path need not be.

    Names that are not UTF-8 come as `file:` URIs, whose escapes keep the bytes.

    Examples:
        >>> image_reference(Path("a.png"))
        'a.png'
    """
    text = str(path)
    # A path that looks like a URI must not be taken for one.
    return path.absolute().as_uri() if is_uri(text) or not is_unicode(text) else text


def printable(name: str) -> str:
    r"""A file name as valid Unicode; bytes that are not UTF-8 become `\xNN`.

    Examples:
        >>> printable("caf\udce9.png")
        'caf\\xe9.png'
    """
    return name if is_unicode(name) else os.fsencode(name).decode("utf-8", "backslashreplace")


def decode_data_uri(uri: str) -> bytes:
    """The content of a `data:` URI.

    Raises:
        ImageError: If it is malformed.

    Examples:
        >>> decode_data_uri("data:text/plain;base64,aGk=")
        b'hi'
    """
    head, comma, body = uri.partition(",")
    if not comma:
        raise ImageError(f"{describe_reference(uri)} is malformed: it has no comma")
    content = unquote_to_bytes(body)
    if not head.lower().endswith(";base64"):
        return content
    try:
        return base64.b64decode(content, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ImageError(f"{describe_reference(uri)} is malformed: {error}") from error


def _public_address(address: str) -> str:
    """An address without what belongs in no log: user name, password and token.

    Examples:
        >>> _public_address("http://me:secret@[::1]:8080/a.png?token=1")
        'http://[::1]:8080/a.png'
    """
    try:
        parts = urlsplit(address)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        # Then it cannot be told what of it is secret.
        return f"{address.partition(':')[0]}://..."
    host = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{host}{'' if port is None else f':{port}'}{parts.path}"


def describe_reference(reference: object) -> str:
    """How a message names a picture; never its content."""
    if isinstance(reference, bytes):
        return f"a picture of {len(reference):,} bytes"
    if isinstance(reference, str) and is_data_uri(reference):
        return f"a data: URI of {len(reference):,} characters"
    if isinstance(reference, str) and is_uri(reference):
        path = local_path(reference)
        if path is None:
            return repr(_public_address(reference))
        return repr(printable(str(path)))
    if isinstance(reference, (str, Path)):
        return repr(printable(str(reference)))
    return f"a picture in memory ({type(reference).__name__})"
