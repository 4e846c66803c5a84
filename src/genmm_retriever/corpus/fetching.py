"""Pictures behind web addresses, with bounds on size and time."""

from __future__ import annotations

import http.client
import time
import urllib.error
import urllib.request

from genmm_retriever.corpus.references import describe_reference
from genmm_retriever.errors import ImageError

MAX_BYTES = 50 << 20
TIMEOUT_S = 30.0


def _opener() -> urllib.request.OpenerDirector:
    """An opener that follows redirects to web addresses only, never to files."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.UnknownHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPRedirectHandler(),
        urllib.request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    opener.addheaders = [("User-Agent", "genmm-retriever"), ("Accept", "image/*")]
    return opener


def fetch(url: str, *, max_bytes: int = MAX_BYTES, timeout_s: float = TIMEOUT_S) -> bytes:
    """Download a picture.

    Args:
        url: An `http` or `https` address.
        max_bytes: Most bytes to accept.
        timeout_s: Most seconds for the whole download.

    Raises:
        ImageError: If it cannot be had within the bounds.
    """
    name = describe_reference(url)
    deadline = time.monotonic() + timeout_s
    content = bytearray()
    try:
        with _opener().open(url, timeout=timeout_s) as response:
            while block := response.read1(1 << 16):
                content += block
                if len(content) > max_bytes:
                    raise ImageError(
                        f"{name} is larger than {max_bytes:,} bytes", "download and shrink it"
                    )
                if time.monotonic() > deadline:
                    raise ImageError(f"{name} did not arrive within {timeout_s:g} s")
    except urllib.error.HTTPError as error:
        error.close()
        raise ImageError(f"{name} cannot be downloaded: HTTP {error.code}") from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        raise ImageError(f"{name} cannot be downloaded: {reason}") from error
    return bytes(content)
